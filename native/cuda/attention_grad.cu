// dq, dk, dv of attention of f16 and bf16 on the tensor cores: FlashAttention-2 (arXiv:2307.08691), algorithm 2, in two kernels, so that
// nothing is added by several blocks. With p = exp(scale·q·kᵀ − log_sum_exp), delta = Σ o·do, ds = p·(do·vᵀ − delta):
//   dq = scale·ds·k, a block for each tile of queries; it also leaves delta for the second kernel
//   dv = pᵀ·do, dk = scale·dsᵀ·q, a block for each tile of keys; few keys: a block for a part of the queries, and a sum over the parts
#include <algorithm>

#include "attention.cuh"

namespace lorafuse::cuda {
namespace {

// A block has kRows rows of its own, 16 a warp, and goes through the others kTokens at a time.
constexpr int kThreads = 128, kRows = 64, kTokens = 32, kGroups = kTokens / 8;

template <class T, int D>
using Rows = Tile<T, D, kRows, kThreads>;
template <class T, int D>
using Tokens = Tile<T, D, kTokens, kThreads>;

// a = 16 rows of a head for each warp, by way of shared memory.
template <class T, int D>
__device__ __forceinline__ void load_own_rows(uint32_t (&a)[D / 8][2], const T* x, int first, int tokens, const Heads& h, T* shared) {
  Rows<T, D> rows;
  rows.fetch(x, first, tokens, h);
  __syncthreads();
  rows.store(shared);
  __syncthreads();
  load_rows<T, D>(a, shared + threadIdx.x / 32 * 16 * kPitch<D>);
}

template <class T, int D>
__global__ void __launch_bounds__(kThreads)
query_grad_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ o,
                  const float* __restrict__ log_sum_exp, const T* __restrict__ dout, T* __restrict__ dq, float* __restrict__ delta,
                  Heads h) {
  if constexpr (kComputes<T>) {
    __shared__ alignas(16) T shared[Rows<T, D>::kElements];
    T *k_tile = shared, *v_tile = shared + Tokens<T, D>::kElements;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * kRows, query = first + warp * 16 + lane / 4;
    const float scale = h.scale * kLog2e;
    k = h.at(k, h.keys, blockIdx.y), v = h.at(v, h.keys, blockIdx.y);

    uint32_t a_q[D / 8][2], a_dout[D / 8][2];
    load_own_rows<T, D>(a_dout, h.at(dout, h.queries, blockIdx.y), first, h.queries, h, shared);
    float mean[2] = {0, 0}, shift[2];  // delta and log_sum_exp·log2(e) of rows g and g + 8
    {
      uint32_t a_o[D / 8][2];
      load_own_rows<T, D>(a_o, h.at(o, h.queries, blockIdx.y), first, h.queries, h, shared);
#pragma unroll
      for (int c = 0; c < D / 8; c++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const float2 x = unpack<T>(a_o[c][r]), y = unpack<T>(a_dout[c][r]);
          mean[r] += x.x * y.x + x.y * y.y;
        }
    }
    load_own_rows<T, D>(a_q, h.at(q, h.queries, blockIdx.y), first, h.queries, h, shared);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      mean[r] += __shfl_xor_sync(0xffffffffu, mean[r], 1);
      mean[r] += __shfl_xor_sync(0xffffffffu, mean[r], 2);
      const int64_t row = static_cast<int64_t>(blockIdx.y) * h.queries + query + 8 * r;
      shift[r] = query + 8 * r < h.queries ? log_sum_exp[row] * kLog2e : INFINITY;
      if (lane % 4 == 0 && query + 8 * r < h.queries) delta[row] = mean[r];
    }

    Tokens<T, D> k_next, v_next;
    k_next.fetch(k, 0, h.keys, h), v_next.fetch(v, 0, h.keys, h);
    float sum[D / 8][4] = {};
    for (int j = 0; j < h.keys; j += kTokens) {
      __syncthreads();
      k_next.store(k_tile), v_next.store(v_tile);
      __syncthreads();
      k_next.fetch(k, j + kTokens, h.keys, h), v_next.fetch(v, j + kTokens, h.keys, h);
      float s[kGroups][4], ds[kGroups][4];
      multiply_transposed<T, D, kGroups>(s, a_q, k_tile);
      multiply_transposed<T, D, kGroups>(ds, a_dout, v_tile);
#pragma unroll
      for (int n = 0; n < kGroups; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float p = exp2_approximate(fmaf(s[n][i], scale, -shift[i / 2]));
          ds[n][i] = j + kTokens > h.keys && j + n * 8 + lane % 4 * 2 + i % 2 >= h.keys ? 0 : p * (ds[n][i] - mean[i / 2]);
        }
      multiply_add<T, D, kGroups>(sum, ds, k_tile);
    }
    __syncthreads();
    store_rows<T, D>(sum, h.scale, h.scale, shared + warp * 16 * kPitch<D>, h.at(dq, h.queries, blockIdx.y), first + warp * 16, h.queries,
                     h);
  }
}

// `parts` [parts, 2, B, keys, C]: dk, dv of a part of the queries each, where there are several.
template <class T, int D>
__global__ void __launch_bounds__(kThreads)
key_grad_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ log_sum_exp,
                const T* __restrict__ dout, T* __restrict__ dk, T* __restrict__ dv, const float* __restrict__ delta,
                float* __restrict__ parts, int part, Heads h) {
  if constexpr (kComputes<T>) {
    __shared__ alignas(16) T shared[Rows<T, D>::kElements];
    __shared__ float2 statistics[kTokens];  // log_sum_exp·log2(e), delta
    T *q_tile = shared, *dout_tile = shared + Tokens<T, D>::kElements;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * kRows;
    const int begin = blockIdx.z * part, end = min(h.queries, begin + part);
    const float scale = h.scale * kLog2e;
    q = h.at(q, h.queries, blockIdx.y), dout = h.at(dout, h.queries, blockIdx.y);
    log_sum_exp += static_cast<int64_t>(blockIdx.y) * h.queries, delta += static_cast<int64_t>(blockIdx.y) * h.queries;

    uint32_t a_k[D / 8][2], a_v[D / 8][2];
    load_own_rows<T, D>(a_k, h.at(k, h.keys, blockIdx.y), first, h.keys, h, shared);
    load_own_rows<T, D>(a_v, h.at(v, h.keys, blockIdx.y), first, h.keys, h, shared);

    Tokens<T, D> q_next, dout_next;
    float2 next;
    auto fetch = [&](int i) {
      q_next.fetch(q, i, end, h), dout_next.fetch(dout, i, end, h);
      const int query = i + static_cast<int>(threadIdx.x);
      next = threadIdx.x < kTokens && query < end ? float2{log_sum_exp[query] * kLog2e, delta[query]} : float2{INFINITY, 0};
    };
    fetch(begin);
    float dk_sum[D / 8][4] = {}, dv_sum[D / 8][4] = {};
    for (int i = begin; i < end; i += kTokens) {
      __syncthreads();
      q_next.store(q_tile), dout_next.store(dout_tile);
      if (threadIdx.x < kTokens) statistics[threadIdx.x] = next;
      __syncthreads();
      fetch(i + kTokens);
      float p[kGroups][4], ds[kGroups][4];  // [16 keys, kTokens]
      multiply_transposed<T, D, kGroups>(p, a_k, q_tile);
      multiply_transposed<T, D, kGroups>(ds, a_v, dout_tile);
#pragma unroll
      for (int n = 0; n < kGroups; n++) {
        const float4 two = *reinterpret_cast<const float4*>(statistics + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int x = 0; x < 4; x++) {
          p[n][x] = exp2_approximate(fmaf(p[n][x], scale, x % 2 ? -two.z : -two.x));
          ds[n][x] = p[n][x] * (ds[n][x] - (x % 2 ? two.w : two.y));
        }
      }
      multiply_add<T, D, kGroups>(dv_sum, p, dout_tile);
      multiply_add<T, D, kGroups>(dk_sum, ds, q_tile);
    }
    if (gridDim.z == 1) {
      __syncthreads();
      T* rows = shared + warp * 16 * kPitch<D>;
      store_rows<T, D>(dk_sum, h.scale, h.scale, rows, h.at(dk, h.keys, blockIdx.y), first + warp * 16, h.keys, h);
      __syncwarp();
      store_rows<T, D>(dv_sum, 1, 1, rows, h.at(dv, h.keys, blockIdx.y), first + warp * 16, h.keys, h);
    } else {
      const int64_t elements = static_cast<int64_t>(gridDim.y / h.heads) * h.keys * h.stride();
      float *dk_part = h.at(parts + 2 * blockIdx.z * elements, h.keys, blockIdx.y), *dv_part = dk_part + elements;
#pragma unroll
      for (int c = 0; c < D / 8; c++)
#pragma unroll
        for (int x = 0; x < 4; x++) {
          const int key = first + warp * 16 + lane / 4 + x / 2 * 8, column = c * 8 + lane % 4 * 2 + x % 2;
          if (key >= h.keys || column >= h.d) continue;
          dk_part[key * h.stride() + column] = dk_sum[c][x] * h.scale;
          dv_part[key * h.stride() + column] = dv_sum[c][x];
        }
    }
  }
}

// dk, dv = the sums of their parts [parts, 2, elements], first to last.
template <class T>
__global__ void __launch_bounds__(256)
sum_parts_kernel(const float* __restrict__ parts, T* __restrict__ dk, T* __restrict__ dv, int count, int elements) {
  if constexpr (kComputes<T>) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= elements) return;
    const float* from = parts + static_cast<int64_t>(blockIdx.y) * elements + i;
    float sum = 0;
    for (int p = 0; p < count; p++) sum += from[2 * static_cast<int64_t>(p) * elements];
    (blockIdx.y ? dv : dk)[i] = from_float<T>(sum);
  }
}

// How many parts the queries are cut into so that blocks of keys occupy the card, and queries of a part.
struct Parts {
  int count, queries;
};
Parts parts_of(const Heads& h, int batch, const Card& card) {
  const int blocks = ceil_div(h.keys, kRows) * batch * h.heads, tiles = ceil_div(h.queries, kTokens);
  const int wanted = std::clamp(2 * card.multiprocessors / blocks, 1, std::max(1, tiles / 8));
  const int queries = ceil_div(tiles, wanted) * kTokens;
  return {ceil_div(h.queries, queries), queries};
}

size_t delta_bytes(const Heads& h, int batch) {
  return ceil_div<size_t>(size_t{1} * batch * h.heads * h.queries * sizeof(float), 256) * 256;
}

template <class T, int D>
void launch_kernels(const Heads& h, int batch, Context& c) {
  float* delta = static_cast<float*>(c.workspace);
  float* parts = delta + delta_bytes(h, batch) / sizeof(float);
  const Parts part = parts_of(h, batch, c.card);
  const T *q = data<T>(c.in(0)), *k = data<T>(c.in(1)), *v = data<T>(c.in(2)), *o = data<T>(c.in(3)), *dout = data<T>(c.in(5));
  T *dq = data<T>(c.out(0)), *dk = data<T>(c.out(1)), *dv = data<T>(c.out(2));
  const float* log_sum_exp = data<float>(c.in(4));
  const unsigned heads = batch * h.heads;
  launch("attention's dq", query_grad_kernel<T, D>, dim3(ceil_div(h.queries, kRows), heads), kThreads, 0, c.stream, q, k, v, o,
         log_sum_exp, dout, dq, delta, h);
  launch("attention's dk and dv", key_grad_kernel<T, D>, dim3(ceil_div(h.keys, kRows), heads, part.count), kThreads, 0, c.stream, q, k, v,
         log_sum_exp, dout, dk, dv, delta, parts, part.queries, h);
  if (part.count == 1) return;
  const int elements = static_cast<int>(c.out(1).shape.elements());
  launch("sum of dk and dv", sum_parts_kernel<T>, dim3(ceil_div(elements, 256), 2), 256, 0, c.stream, parts, dk, dv, part.count,
         elements);
}

}  // namespace

void run(const AttentionGrad& op, Context& c) {
  const Heads h = heads_of(c.in(0).shape, c.in(1).shape, op.heads);
  const int batch = static_cast<int>(c.in(0).shape[0]);
  for_type(c.in(0).dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>) {
      if (h.d <= 40) return launch_kernels<T, 40>(h, batch, c);
      if (h.d <= 64) return launch_kernels<T, 64>(h, batch, c);
      if (h.d <= 80) return launch_kernels<T, 80>(h, batch, c);
      if (h.d <= kLargestHead) return launch_kernels<T, kLargestHead>(h, batch, c);
    }
    run_simt_grad(h, batch, static_cast<float*>(c.workspace), c);
  });
}

size_t workspace_bytes(const AttentionGrad& op, std::span<const Value> inputs, const Card& card) {
  const Heads h = heads_of(inputs[0].shape, inputs[1].shape, op.heads);
  const int batch = static_cast<int>(inputs[0].shape[0]);
  const int parts = inputs[0].dtype == DType::f32 || h.d > kLargestHead ? 1 : parts_of(h, batch, card).count;
  return delta_bytes(h, batch) + (parts > 1 ? parts * 2 * inputs[1].shape.elements() * sizeof(float) : 0);
}

}  // namespace lorafuse::cuda
