// Heads of a [B, T, C] tensor as tiles in shared memory, and products of 16 rows a warp with them on the tensor cores.
// Fragments: PTX ISA, "Matrix Fragments for mma.m16n8k8" and ".m16n8k16". Lane 4g + t holds of c [16, 8] rows g, g + 8, columns 2t, 2t + 1.
// Two such c side by side, rounded to T, are the fragment of a for the next product, so scores never leave the registers.
#pragma once
#include "kernels.h"
#include "mma.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {

// q, o [B, queries, C] and k, v [B, keys, C]; head h is the columns [h·d, (h + 1)·d), C = heads·d.
struct Heads {
  int queries, keys, heads, d;
  float scale;  // 1 / √d
  int batch;

  __host__ __device__ int stride() const { return heads * d; }
  // The first element of head index % heads of sample index / heads.
  template <class T> __device__ T* at(T* x, int tokens, int index) const {
    return x + static_cast<int64_t>(index / heads) * tokens * stride() + index % heads * d;
  }
};

Heads heads_of(const Shape& q, const Shape& k, int heads);  // attention.cu

// For any head size and type, in f32 without tensor cores: attention_simt.cu. `delta` [B, heads, queries] is scratch.
void run_simt(const Heads& h, bool causal, Context& c);
void run_simt_grad(const Heads& h, bool causal, float* delta, Context& c);

constexpr float kLog2e = 1.4426950408889634f;
// Limits of the tensor core kernels: accumulators must fit the registers, and rows of a head begin at multiples of 16 bytes.
constexpr int kLargestHead = 160;
inline bool fits_tensor_cores(DType dtype, const Heads& h) { return dtype != DType::f32 && h.d <= kLargestHead && h.d % 8 == 0; }
// Calls f(T(), Count<D>()) with the head size, of those that kernels are compiled for, at which heads of size d run.
template <class F> void for_head_size(DType dtype, int d, F f) {
  const auto with = [&](auto type) {
    if (d <= 40) f(type, Count<40>());
    else if (d <= 64) f(type, Count<64>());
    else if (d <= 80) f(type, Count<80>());
    else f(type, Count<kLargestHead>());
  };
  if (dtype == DType::f16) with(__half());
  else with(__nv_bfloat16());
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T> __device__ __forceinline__ float2 unpack(uint32_t pair) {
  if constexpr (std::is_same_v<T, __half>) return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  else return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

// The pitch of a tile is an odd number of 16-byte chunks: eight rows touch all banks once.
template <int D> constexpr int kPitch = (D / 8 | 1) * 8;
// How many threads a row of chunks is dealt to: also its padding, where eight threads would otherwise conflict in a bank.
template <int D> constexpr int kLine = D / 8 % 8 == 0 ? D / 8 : kPitch<D> / 8;

// kTokens rows of D columns on their way from global to shared memory. A thread has one chunk of every kStep-th row.
template <class T, int D, int kTokens, int kThreads> struct Tile {
  static_assert(D % 8 == 0);
  static constexpr int kElements = kTokens * kPitch<D>, kStep = kThreads / kLine<D>;
  static constexpr int kVectors = (kTokens + kStep - 1) / kStep;

  uint4 staged[kVectors];

  // Rows [first, first + kTokens) of a head; zeros from row `tokens` and from column d on.
  __device__ __forceinline__ void fetch(const T* x, int first, int tokens, const Heads& h) {
    const int row = threadIdx.x / kLine<D>, column = threadIdx.x % kLine<D> * 8;
    const int rows = column < h.d ? min(rows_left(), tokens - first - row) : 0;
    const T* from = x + (first + row) * h.stride() + column;
#pragma unroll
    for (int i = 0; i < kVectors; i++)
      staged[i] = i * kStep < rows ? *reinterpret_cast<const uint4*>(from + i * kStep * h.stride()) : uint4{0, 0, 0, 0};
  }
  __device__ __forceinline__ void store(T* shared) const {
    T* to = shared + threadIdx.x / kLine<D> * kPitch<D> + threadIdx.x % kLine<D> * 8;
#pragma unroll
    for (int i = 0; i < kVectors; i++)
      if (i * kStep < rows_left()) *reinterpret_cast<uint4*>(to + i * kStep * kPitch<D>) = staged[i];
  }

 private:
  // Rows from the thread's first one on; none for a thread without a chunk.
  static __device__ __forceinline__ int rows_left() {
    const int row = threadIdx.x / kLine<D>, chunk = threadIdx.x % kLine<D>;
    return (kThreads % kLine<D> == 0 || row < kStep) && (kLine<D> == D / 8 || chunk < D / 8) ? kTokens - row : 0;
  }
};

// Left side [16, D] of products: 16 rows in shared memory, kept in registers or read again for each product.
template <class T, int D, bool kInRegisters> struct Left {
  uint32_t address, registers[kInRegisters ? D / 8 : 1][2];

  __device__ __forceinline__ explicit Left(const T* rows)
      : address(shared_address(rows + threadIdx.x % 16 * kPitch<D> + threadIdx.x % 32 / 16 * 8)) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int c = 0; c + 1 < D / 8; c += 2) read(registers[c], registers[c + 1], c);
      if constexpr (D / 8 % 2 == 1) read(registers[D / 8 - 1], D / 8 - 1);
    }
  }
  // Chunks c and c + 1, or the last one alone.
  __device__ __forceinline__ void get(uint32_t (&a0)[2], uint32_t (&a1)[2], int c) const {
    if constexpr (kInRegisters) {
      a0[0] = registers[c][0], a0[1] = registers[c][1];
      if (c + 1 < D / 8) a1[0] = registers[c + 1][0], a1[1] = registers[c + 1][1];
    } else if (c + 1 < D / 8) {
      read(a0, a1, c);
    } else {
      read(a0, c);
    }
  }

 private:
  __device__ __forceinline__ void read(uint32_t (&a0)[2], uint32_t (&a1)[2], int c) const {
    uint32_t x[4];
    load_matrices<false>(x, address + c * 16);
    a0[0] = x[0], a0[1] = x[1], a1[0] = x[2], a1[1] = x[3];
  }
  __device__ __forceinline__ void read(uint32_t (&a)[2], int c) const { load_matrices(a, address + c * 16); }
};

// Right sides are tiles, 8·kGroups rows: ldmatrix takes 32 rows of a chunk, or 16 rows of two chunks.
template <int D, int kGroups, class T> __device__ __forceinline__ uint32_t right_address(const T* x) {
  static_assert(kGroups % 4 == 0 || (kGroups == 2 && D / 8 % 2 == 0));
  const int lane = threadIdx.x % 32;
  return shared_address(kGroups == 2 ? x + lane % 16 * kPitch<D> + lane / 16 * 8 : x + lane * kPitch<D>);
}

// s [16, 8·kGroups] = a [16, D] · xᵀ
template <class T, int D, int kGroups, bool kInRegisters>
__device__ __forceinline__ void multiply_transposed(float (&s)[kGroups][4], const Left<T, D, kInRegisters>& a, const T* x) {
  const uint32_t address = right_address<D, kGroups>(x);
#pragma unroll
  for (int n = 0; n < kGroups; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
  for (int c = 0; c < D / 8; c += 2) {
    uint32_t a0[2], a1[2];
    a.get(a0, a1, c);
    if constexpr (kGroups == 2) {
      uint32_t b[4];
      load_matrices<false>(b, address + c * 16);
      mma16<T>(s[0], a0, a1, b[0], b[2]);
      mma16<T>(s[1], a0, a1, b[1], b[3]);
    } else {
#pragma unroll
      for (int n = 0; n < kGroups; n += 4) {
        uint32_t low[4], high[4];
        load_matrices<false>(low, address + n * 8 * kPitch<D> * 2 + c * 16);
        if (c + 1 < D / 8) load_matrices<false>(high, address + n * 8 * kPitch<D> * 2 + c * 16 + 16);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (c + 1 < D / 8) mma16<T>(s[n + i], a0, a1, low[i], high[i]);
          else mma8<T>(s[n + i], a0, low[i]);
        }
      }
    }
  }
}

// a [16, 8·kGroups] = w rounded to T
template <class T, int kGroups> __device__ __forceinline__ void pack_rows(uint32_t (&a)[kGroups][2], const float (&w)[kGroups][4]) {
#pragma unroll
  for (int n = 0; n < kGroups; n++) a[n][0] = packed<T>(w[n][0], w[n][1]), a[n][1] = packed<T>(w[n][2], w[n][3]);
}

// o [16, D] += a [16, 8·kGroups] · x
template <class T, int D, int kGroups>
__device__ __forceinline__ void multiply_add(float (&o)[D / 8][4], const uint32_t (&a)[kGroups][2], const T* x) {
  const uint32_t address = right_address<D, kGroups>(x);
  if constexpr (kGroups == 2) {
#pragma unroll
    for (int c = 0; c < D / 8; c += 2) {
      uint32_t b[4];
      load_matrices<true>(b, address + c * 16);
      mma16<T>(o[c], a[0], a[1], b[0], b[1]);
      mma16<T>(o[c + 1], a[0], a[1], b[2], b[3]);
    }
  } else {
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
}

// Rows [first, first + 16) of a head = rows of c times `low` (g) and `high` (g + 8). `rows`: the warp's own 16 rows in shared memory.
template <class T, int D> __device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], float low, float high, T* rows, T* x,
                                                                     int first, int tokens, const Heads& h) {
  const int lane = threadIdx.x % 32;
  auto* pairs = reinterpret_cast<uint32_t*>(rows + lane / 4 * kPitch<D> + lane % 4 * 2);
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    pairs[i * 4] = packed<T>(c[i][0] * low, c[i][1] * low);
    pairs[i * 4 + 4 * kPitch<D>] = packed<T>(c[i][2] * high, c[i][3] * high);
  }
  __syncwarp();
  for (int index = lane; index < 16 * kLine<D>; index += 32) {
    const int row = index / kLine<D>, column = index % kLine<D> * 8;
    if (first + row < tokens && column < h.d)
      *reinterpret_cast<uint4*>(x + (first + row) * h.stride() + column) = *reinterpret_cast<const uint4*>(rows + row * kPitch<D> + column);
  }
}

}  // namespace lorafuse::cuda
