// Heads of a [B, T, C] tensor as tiles in shared memory, and products of 16 rows a warp with them on the tensor cores.
// Fragments: PTX ISA, "Matrix Fragments for mma.m16n8k8" and ".m16n8k16". Lane 4g + t holds of c [16, 8] rows g, g + 8, columns 2t, 2t + 1.
// Two such c side by side, rounded to T, are what a holds for the next product: scores never leave the registers.
#pragma once
#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

// q, o [B, queries, C] and k, v [B, keys, C]; head h is the columns [h·d, (h + 1)·d), C = heads·d.
struct Heads {
  int queries, keys, heads, d;
  float scale;  // 1 / √d

  __host__ __device__ int stride() const { return heads * d; }
  __device__ bool vectors() const { return d % 8 == 0; }  // rows of a head begin at multiples of 16 bytes
  // The first element of head index % heads of sample index / heads.
  template <class T>
  __device__ T* at(T* x, int tokens, int index) const {
    return x + static_cast<int64_t>(index / heads) * tokens * stride() + index % heads * d;
  }
};

Heads heads_of(const Shape& q, const Shape& k, int heads);  // attention.cu

// attention_simt.cu: any head size and type, in f32 on the ordinary units. `delta` [B, heads, queries] is scratch.
void run_simt(const Heads& h, int batch, bool causal, Context& c);
void run_simt_grad(const Heads& h, int batch, float* delta, Context& c);

constexpr float kLog2e = 1.4426950408889634f;
constexpr int kLargestHead = 160;  // beyond it the tensor core kernels' accumulators do not fit

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}
template <class T>
__device__ __forceinline__ float2 unpack(uint32_t pair) {
  if constexpr (std::is_same_v<T, __half>) return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  else return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

__device__ __forceinline__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 8×8 matrices; lane 8i + r names row r of matrix i.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t address) {
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_matrices(uint32_t (&x)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(address) : "memory");
}

// c [16, 8] += a [16, 8] · b [8, 8]
template <class T>
__device__ __forceinline__ void mma8(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  if constexpr (std::is_same_v<T, __half>)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
  else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}

// c [16, 8] += (a0 ‖ a1) [16, 16] · (b0 over b1) [16, 8]
template <class T>
__device__ __forceinline__ void mma16(float (&c)[4], const uint32_t (&a0)[2], const uint32_t (&a1)[2], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b0), "r"(b1));
#else
  mma8<T>(c, a0, b0);
  mma8<T>(c, a1, b1);
#endif
}

// Eight columns of one row of a head, zeros from column d on.
template <class T>
__device__ __forceinline__ uint4 load_chunk(const T* row, int column, const Heads& h) {
  uint4 x = {0, 0, 0, 0};
  if (h.vectors()) {
    if (column < h.d) x = *reinterpret_cast<const uint4*>(row + column);
  } else {
    const auto* bits = reinterpret_cast<const unsigned short*>(row) + column;
    auto pair = [&](int i) {
      const uint32_t low = column + i < h.d ? bits[i] : 0u, high = column + i + 1 < h.d ? bits[i + 1] : 0u;
      return low | high << 16;
    };
    x = {pair(0), pair(2), pair(4), pair(6)};
  }
  return x;
}

// kTokens rows of D columns in shared memory. The pitch is an odd number of 16-byte chunks: eight rows touch all banks once.
template <class T, int D, int kTokens, int kThreads>
struct Tile {
  static_assert(D % 8 == 0);
  static constexpr int kChunks = D / 8, kPitch = (kChunks | 1) * 8, kElements = kTokens * kPitch;
  static constexpr int kVectors = (kTokens * kChunks + kThreads - 1) / kThreads;  // of a thread

  uint4 staged[kVectors];  // on the way from global memory

  // Rows [first, first + kTokens) of a head; zeros from row `tokens` on.
  __device__ __forceinline__ void fetch(const T* x, int first, int tokens, const Heads& h) {
#pragma unroll
    for (int i = 0; i < kVectors; i++) {
      const int index = threadIdx.x + i * kThreads, row = first + index / kChunks;
      staged[i] = {0, 0, 0, 0};
      if (row < tokens && (kTokens * kChunks % kThreads == 0 || index < kTokens * kChunks))
        staged[i] = load_chunk(x + row * h.stride(), index % kChunks * 8, h);
    }
  }
  __device__ __forceinline__ void store(T* shared) const {
#pragma unroll
    for (int i = 0; i < kVectors; i++) {
      const int index = threadIdx.x + i * kThreads;
      if (kTokens * kChunks % kThreads == 0 || index < kTokens * kChunks)
        *reinterpret_cast<uint4*>(shared + index / kChunks * kPitch + index % kChunks * 8) = staged[i];
    }
  }
};

template <int D>
constexpr int kPitch = (D / 8 | 1) * 8;

// a [16, D]: rows of the warp in a tile.
template <class T, int D>
__device__ __forceinline__ void load_rows(uint32_t (&a)[D / 8][2], const T* rows) {
  const int lane = threadIdx.x % 32;
  const uint32_t address = shared_address(rows + lane % 16 * kPitch<D> + lane / 16 * 8);
#pragma unroll
  for (int c = 0; c + 1 < D / 8; c += 2) {
    uint32_t x[4];
    load_matrices<false>(x, address + c * 16);
    a[c][0] = x[0], a[c][1] = x[1], a[c + 1][0] = x[2], a[c + 1][1] = x[3];
  }
  if constexpr (D / 8 % 2 == 1) load_matrices(a[D / 8 - 1], shared_address(rows + lane % 16 * kPitch<D>) + (D / 8 - 1) * 16);
}

// s [16, 8·kGroups] = a [16, D] · xᵀ, x = the first 8·kGroups rows of a tile.
template <class T, int D, int kGroups>
__device__ __forceinline__ void multiply_transposed(float (&s)[kGroups][4], const uint32_t (&a)[D / 8][2], const T* x) {
  static_assert(kGroups % 4 == 0);
  const uint32_t address = shared_address(x + threadIdx.x % 32 * kPitch<D>);
#pragma unroll
  for (int n = 0; n < kGroups; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
  for (int c = 0; c < D / 8; c += 2)
#pragma unroll
    for (int n = 0; n < kGroups; n += 4) {
      uint32_t low[4], high[4];
      load_matrices<false>(low, address + n * 8 * kPitch<D> * 2 + c * 16);
      if (c + 1 < D / 8) load_matrices<false>(high, address + n * 8 * kPitch<D> * 2 + c * 16 + 16);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (c + 1 < D / 8) mma16<T>(s[n + i], a[c], a[c + 1], low[i], high[i]);
        else mma8<T>(s[n + i], a[c], low[i]);
      }
    }
}

// o [16, D] += w [16, 8·kGroups] · x, x = the first 8·kGroups rows of a tile; w is rounded to T.
template <class T, int D, int kGroups>
__device__ __forceinline__ void multiply_add(float (&o)[D / 8][4], const float (&w)[kGroups][4], const T* x) {
  static_assert(kGroups % 4 == 0);
  const uint32_t address = shared_address(x + threadIdx.x % 32 * kPitch<D>);
  uint32_t a[kGroups][2];
#pragma unroll
  for (int n = 0; n < kGroups; n++) a[n][0] = pack<T>(w[n][0], w[n][1]), a[n][1] = pack<T>(w[n][2], w[n][3]);
#pragma unroll
  for (int n = 0; n < kGroups; n += 4)
#pragma unroll
    for (int c = 0; c < D / 8; c++) {
      uint32_t b[4];
      load_matrices<true>(b, address + n * 8 * kPitch<D> * 2 + c * 16);
      mma16<T>(o[c], a[n], a[n + 1], b[0], b[1]);
      mma16<T>(o[c], a[n + 2], a[n + 3], b[2], b[3]);
    }
}

// Rows [first, first + 16) of a head = rows of c times `low` (g) and `high` (g + 8). `rows`: the warp's own 16 rows in shared memory.
template <class T, int D>
__device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], float low, float high, T* rows, T* x, int first, int tokens,
                                           const Heads& h) {
  constexpr int kChunks = D / 8;
  const int lane = threadIdx.x % 32;
  auto* pairs = reinterpret_cast<uint32_t*>(rows + lane / 4 * kPitch<D> + lane % 4 * 2);
#pragma unroll
  for (int i = 0; i < kChunks; i++) {
    pairs[i * 4] = pack<T>(c[i][0] * low, c[i][1] * low);
    pairs[i * 4 + 4 * kPitch<D>] = pack<T>(c[i][2] * high, c[i][3] * high);
  }
  __syncwarp();
  for (int index = lane; index < 16 * kChunks; index += 32) {
    const int row = index / kChunks, column = index % kChunks * 8;
    if (first + row >= tokens || column >= h.d) continue;
    T* to = x + (first + row) * h.stride() + column;
    const T* from = rows + row * kPitch<D> + column;
    if (h.vectors()) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
    else
      for (int i = 0; i < min(8, h.d - column); i++) to[i] = from[i];
  }
}

}  // namespace lorafuse::cuda
