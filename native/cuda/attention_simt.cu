// Attention of any head size in f32, without tensor cores: the VAE's one head of 512, and training in f32.
// A block has kRows rows of its own and goes through the other tokens 64 at a time: scores [kRows, 64] from slices of d, weights from
// them, and sums of weights · x, 64·kSlots columns of x at a time. One kernel gives dq = scale·ds·k, dk = scale·dsᵀ·q, dv = pᵀ·do
// (FlashAttention-2, arXiv:2307.08691, algorithm 2) with p = exp(scale·q·kᵀ − log_sum_exp), ds = p·(do·vᵀ − delta), delta = Σ o·do.
#include "attention.cuh"

namespace lorafuse::cuda {
namespace {

// 16 × 16 threads; thread (y, x) has rows kPerThread·y …, score columns x + 16·j and output columns 4x … 4x + 3 of each 64.
constexpr int kThreads = 256, kTokens = 64, kDepth = 16, kSlice = 8;  // columns of a slice of d, tokens of a slice of x

template <int kPerThread, int kSlots> struct Scratch {
  static constexpr int kRows = 16 * kPerThread, kPitch = kDepth + 4, kColumns = 64 * kSlots;
  union {
    struct { float rows[kRows * kPitch], tokens[kTokens * kPitch]; } slices;
    float x[kSlice * kColumns];
  };
  float weights[kRows * (kTokens + 4)];
};

// Columns [column, column + 4) of a row of a head, zeros from column d on.
template <class T> __device__ __forceinline__ float4 load4(const T* row, int column, const Heads& h) {
  if (h.d % 4 == 0) {  // rows of a head begin at multiples of four elements
    if (column >= h.d) return {0, 0, 0, 0};
    if constexpr (std::is_same_v<T, float>) {
      return *reinterpret_cast<const float4*>(row + column);
    } else {
      const uint2 pairs = *reinterpret_cast<const uint2*>(row + column);
      const float2 low = unpack<T>(pairs.x), high = unpack<T>(pairs.y);
      return {low.x, low.y, high.x, high.y};
    }
  }
  const auto one = [&](int i) { return column + i < h.d ? to_float(row[column + i]) : 0; };
  return {one(0), one(1), one(2), one(3)};
}

// to [kCount, kDepth] = columns [column, column + kDepth) of rows [first, first + kCount) of a head; zeros beyond.
template <int kCount, class T>
__device__ __forceinline__ void load_slice(float* to, const T* x, int first, int tokens, int column, const Heads& h) {
  for (int i = threadIdx.x; i < kCount * kDepth / 4; i += kThreads) {
    const int row = i / (kDepth / 4), c = i % (kDepth / 4) * 4;
    *reinterpret_cast<float4*>(to + row * (kDepth + 4) + c) =
        first + row < tokens ? load4(x + (first + row) * h.stride(), column + c, h) : float4{0, 0, 0, 0};
  }
}

// s = rows of a · rows of bᵀ
template <int kPerThread, int kSlots, class T>
__device__ __forceinline__ void scores(float (&s)[kPerThread][4], const T* a, int first_a, int tokens_a, const T* b, int first_b,
                                       int tokens_b, const Heads& h, Scratch<kPerThread, kSlots>& scratch) {
  using Memory = Scratch<kPerThread, kSlots>;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int r = 0; r < kPerThread; r++) s[r][0] = s[r][1] = s[r][2] = s[r][3] = 0;
  for (int column = 0; column < h.d; column += kDepth) {
    __syncthreads();
    load_slice<Memory::kRows>(scratch.slices.rows, a, first_a, tokens_a, column, h);
    load_slice<kTokens>(scratch.slices.tokens, b, first_b, tokens_b, column, h);
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < kDepth; c += 4) {
      float4 left[kPerThread];
#pragma unroll
      for (int r = 0; r < kPerThread; r++)
        left[r] = *reinterpret_cast<const float4*>(scratch.slices.rows + (y * kPerThread + r) * Memory::kPitch + c);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float4 right = *reinterpret_cast<const float4*>(scratch.slices.tokens + (x + 16 * j) * Memory::kPitch + c);
#pragma unroll
        for (int r = 0; r < kPerThread; r++)
          s[r][j] += left[r].x * right.x + left[r].y * right.y + left[r].z * right.z + left[r].w * right.w;
      }
    }
  }
}

// sum += weights [kRows, kTokens] · columns [column, …) of rows [first, first + kTokens) of x
template <int kPerThread, int kSlots, class T>
__device__ __forceinline__ void add_product(float4 (&sum)[kPerThread][kSlots], const T* x, int first, int tokens, int column,
                                            const Heads& h, Scratch<kPerThread, kSlots>& scratch) {
  using Memory = Scratch<kPerThread, kSlots>;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, columns = ceil_div(min(Memory::kColumns, h.d - column), 64) * 64;
  for (int begin = 0; begin < kTokens && first + begin < tokens; begin += kSlice) {
    __syncthreads();
    for (int i = threadIdx.x; i < kSlice * Memory::kColumns / 4; i += kThreads) {
      const int row = first + begin + i / (Memory::kColumns / 4), c = i % (Memory::kColumns / 4) * 4;
      if (c < columns)
        *reinterpret_cast<float4*>(scratch.x + 4 * i) = row < tokens ? load4(x + row * h.stride(), column + c, h) : float4{0, 0, 0, 0};
    }
    __syncthreads();
#pragma unroll 1
    for (int k = 0; k < kSlice; k += 4) {
      float4 w[kPerThread];
#pragma unroll
      for (int r = 0; r < kPerThread; r++)
        w[r] = *reinterpret_cast<const float4*>(scratch.weights + (ty * kPerThread + r) * (kTokens + 4) + begin + k);
#pragma unroll
      for (int slot = 0; slot < kSlots; slot++) {
        if (slot * 64 >= columns) break;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float4 v = *reinterpret_cast<const float4*>(scratch.x + (k + i) * Memory::kColumns + slot * 64 + tx * 4);
#pragma unroll
          for (int r = 0; r < kPerThread; r++) {
            const float p = i == 0 ? w[r].x : i == 1 ? w[r].y : i == 2 ? w[r].z : w[r].w;
            float4& to = sum[r][slot];
            to.x += p * v.x, to.y += p * v.y, to.z += p * v.z, to.w += p * v.w;
          }
        }
      }
    }
  }
}

template <int kSlots, class T>
__device__ __forceinline__ void store_row(const float4 (&sum)[kSlots], float factor, T* row, int column, const Heads& h) {
#pragma unroll
  for (int slot = 0; slot < kSlots; slot++) {
    const int first = column + slot * 64 + threadIdx.x % 16 * 4;
    const float x[4] = {sum[slot].x * factor, sum[slot].y * factor, sum[slot].z * factor, sum[slot].w * factor};
    if (first >= h.d) return;
    if (h.d % 4 == 0) {
      if constexpr (std::is_same_v<T, float>) *reinterpret_cast<float4*>(row + first) = {x[0], x[1], x[2], x[3]};
      else *reinterpret_cast<uint2*>(row + first) = {packed<T>(x[0], x[1]), packed<T>(x[2], x[3])};
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (first + i < h.d) row[first + i] = from_float<T>(x[i]);
    }
  }
}

template <class T, int kPerThread, int kSlots> __global__ void __launch_bounds__(kThreads, 2)
    simt_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ o,
                float* __restrict__ log_sum_exp, Heads h, bool causal) {
  if constexpr (kComputes<T>) {
    using Memory = Scratch<kPerThread, kSlots>;
    __shared__ alignas(16) Memory scratch;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16, first = blockIdx.x * Memory::kRows, column = blockIdx.z * Memory::kColumns;
    const int end = causal ? min(h.keys, first + Memory::kRows) : h.keys;
    const float scale = h.scale * kLog2e;
    q = h.at(q, h.queries, blockIdx.y), o = h.at(o, h.queries, blockIdx.y);
    k = h.at(k, h.keys, blockIdx.y), v = h.at(v, h.keys, blockIdx.y);

    float4 sum[kPerThread][kSlots] = {};
    float most[kPerThread], total[kPerThread];
#pragma unroll
    for (int r = 0; r < kPerThread; r++) most[r] = -INFINITY, total[r] = 0;
    for (int j = 0; j < end; j += kTokens) {
      float s[kPerThread][4];
      scores(s, q, first, h.queries, k, j, h.keys, h, scratch);
#pragma unroll
      for (int r = 0; r < kPerThread; r++) {
        const int query = first + y * kPerThread + r;
        float larger = most[r];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int key = j + x + 16 * i;
          if (key >= h.keys || (causal && key > query)) s[r][i] = -INFINITY;
          larger = fmaxf(larger, s[r][i]);
        }
#pragma unroll
        for (int offset = 8; offset; offset >>= 1) larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, offset));
        const float shrink = exp2_approximate((most[r] - larger) * scale);
        most[r] = larger, total[r] *= shrink;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float p = exp2_approximate((s[r][i] - larger) * scale);
          total[r] += p;
          scratch.weights[(y * kPerThread + r) * (kTokens + 4) + x + 16 * i] = p;
        }
#pragma unroll
        for (int slot = 0; slot < kSlots; slot++) {
          float4& to = sum[r][slot];
          to.x *= shrink, to.y *= shrink, to.z *= shrink, to.w *= shrink;
        }
      }
      add_product(sum, v, j, h.keys, column, h, scratch);
    }
#pragma unroll
    for (int r = 0; r < kPerThread; r++) {
      const int query = first + y * kPerThread + r;
#pragma unroll
      for (int offset = 8; offset; offset >>= 1) total[r] += __shfl_xor_sync(0xffffffffu, total[r], offset);
      if (query >= h.queries) continue;
      if (x == 0 && blockIdx.z == 0) log_sum_exp[static_cast<int64_t>(blockIdx.y) * h.queries + query] = most[r] * h.scale + logf(total[r]);
      store_row(sum[r], 1 / total[r], o + query * h.stride(), column, h);
    }
  }
}

enum class Product { dq, dk, dv };

template <class T, int kPerThread, int kSlots, bool kCausal> __global__ void __launch_bounds__(kThreads, 2)
    simt_grad_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ log_sum_exp,
                     const T* __restrict__ dout, const float* __restrict__ delta, T* __restrict__ dx, Product product, Heads h) {
  if constexpr (kComputes<T>) {
    using Memory = Scratch<kPerThread, kSlots>;
    __shared__ alignas(16) Memory scratch;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16, first = blockIdx.x * Memory::kRows, column = blockIdx.z * Memory::kColumns;
    const bool by_query = product == Product::dq;
    const int rows = by_query ? h.queries : h.keys, tokens = by_query ? h.keys : h.queries;
    q = h.at(q, h.queries, blockIdx.y), dout = h.at(dout, h.queries, blockIdx.y);
    k = h.at(k, h.keys, blockIdx.y), v = h.at(v, h.keys, blockIdx.y);
    log_sum_exp += static_cast<int64_t>(blockIdx.y) * h.queries, delta += static_cast<int64_t>(blockIdx.y) * h.queries;

    // A query sees the keys up to its own, a key is seen by the queries from its own on.
    const int begin = kCausal && !by_query ? first / kTokens * kTokens : 0;
    const int end = kCausal && by_query ? min(tokens, first + Memory::kRows) : tokens;
    float4 sum[kPerThread][kSlots] = {};
    for (int j = begin; j < end; j += kTokens) {
      float p[kPerThread][4], ds[kPerThread][4];
      scores(p, by_query ? q : k, first, rows, by_query ? k : q, j, tokens, h, scratch);
      if (product != Product::dv) scores(ds, by_query ? dout : v, first, rows, by_query ? v : dout, j, tokens, h, scratch);
#pragma unroll
      for (int r = 0; r < kPerThread; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int row = first + y * kPerThread + r, token = j + x + 16 * i, query = by_query ? row : token;
          float w = 0;
          if (row < rows && token < tokens && !(kCausal && (by_query ? token > row : row > token))) {
            w = exp2_approximate((p[r][i] * h.scale - log_sum_exp[query]) * kLog2e);
            if (product != Product::dv) w *= (ds[r][i] - delta[query]) * h.scale;
          }
          scratch.weights[(y * kPerThread + r) * (kTokens + 4) + x + 16 * i] = w;
        }
      add_product(sum, by_query ? k : product == Product::dk ? q : dout, j, tokens, column, h, scratch);
    }
    dx = h.at(dx, rows, blockIdx.y);
#pragma unroll
    for (int r = 0; r < kPerThread; r++) {
      const int row = first + y * kPerThread + r;
      if (row < rows) store_row(sum[r], 1, dx + row * h.stride(), column, h);
    }
  }
}

// delta = Σ o·do of each row of a head, a warp each.
template <class T> __global__ void __launch_bounds__(kThreads)
    delta_kernel(const T* __restrict__ o, const T* __restrict__ dout, float* __restrict__ delta, Heads h) {
  if constexpr (kComputes<T>) {
    const int query = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
    if (query >= h.queries) return;
    o = h.at(o, h.queries, blockIdx.y) + query * h.stride(), dout = h.at(dout, h.queries, blockIdx.y) + query * h.stride();
    float sum = 0;
    for (int i = threadIdx.x % 32; i < h.d; i += 32) sum += to_float(o[i]) * to_float(dout[i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[static_cast<int64_t>(blockIdx.y) * h.queries + query] = sum;
  }
}

template <class Memory> dim3 grid_of(const Heads& h, int rows) {
  return dim3(ceil_div(rows, Memory::kRows), h.batch * h.heads, ceil_div(h.d, Memory::kColumns));
}

// Calls f(T(), the Scratch of the blocks that heads of size d take).
template <class F> void for_blocks(DType dtype, int d, F f) {
  for_type(dtype, [&]<class T>(T type) {
    if constexpr (std::is_same_v<T, float>)
      if (d <= 128) return f(type, std::type_identity<Scratch<4, 2>>());
    f(type, std::type_identity<Scratch<2, 8>>());
  });
}

}  // namespace

void run_simt(const Heads& h, bool causal, Context& c) {
  for_blocks(c.in(0).dtype, h.d, [&]<class T, int kPerThread, int kSlots>(T, std::type_identity<Scratch<kPerThread, kSlots>>) {
    launch("attention in f32", simt_kernel<T, kPerThread, kSlots>, grid_of<Scratch<kPerThread, kSlots>>(h, h.queries), kThreads, 0,
           c.stream, data<T>(c.in(0)), data<T>(c.in(1)), data<T>(c.in(2)), data<T>(c.out(0)), data<float>(c.out(1)), h, causal);
  });
}

void run_simt_grad(const Heads& h, bool causal, float* delta, Context& c) {
  for_blocks(c.in(0).dtype, h.d, [&]<class T, int kPerThread, int kSlots>(T, std::type_identity<Scratch<kPerThread, kSlots>>) {
    launch("attention's delta", delta_kernel<T>, dim3(ceil_div(h.queries, kThreads / 32), h.batch * h.heads), kThreads, 0, c.stream,
           data<T>(c.in(3)), data<T>(c.in(5)), delta, h);
    for (Product product : {Product::dq, Product::dk, Product::dv}) {
      const dim3 grid = grid_of<Scratch<kPerThread, kSlots>>(h, product == Product::dq ? h.queries : h.keys);
      auto* kernel = causal ? simt_grad_kernel<T, kPerThread, kSlots, true> : simt_grad_kernel<T, kPerThread, kSlots, false>;
      launch("attention's gradient in f32", kernel, grid, kThreads, 0, c.stream, data<T>(c.in(0)), data<T>(c.in(1)), data<T>(c.in(2)),
             data<float>(c.in(4)), data<T>(c.in(5)), delta, data<T>(c.out(static_cast<size_t>(product))), product, h);
    }
  });
}

}  // namespace lorafuse::cuda
