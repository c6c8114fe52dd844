// softmax(q·kᵀ / √d)·v of f16 and bf16 on the tensor cores, the scores never in memory: FlashAttention-2 (arXiv:2307.08691), algorithm 1.
// A warp has 16 queries; all warps of a block share tiles of k and v. While one tile is used the next is on its way in registers.

#include <cmath>

#include "attention.cuh"
#include "kernels.h"

namespace lorafuse::cuda {
namespace {

// Chosen to fit the registers of sm_75.
template <int D, int kWarps> struct Sizes {
  static constexpr int kKeys = D > 40 ? 8 * kWarps : 64;       // of a tile
  static constexpr int kBlocks = D > 80 ? 1 : D > 64 ? 3 : 4;  // of a multiprocessor
  static constexpr bool kInRegisters = D <= 80;                // the queries
};

template <class T, int D, int kWarps> __global__ void __launch_bounds__(32 * kWarps, resident_blocks(Sizes<D, kWarps>::kBlocks))
    attention_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, T* __restrict__ o,
                     float* __restrict__ log_sum_exp, Heads h, bool causal) {
  if constexpr (kComputes<T>) {
    constexpr int kThreads = 32 * kWarps, kQueries = 16 * kWarps, kKeys = Sizes<D, kWarps>::kKeys, kGroups = kKeys / 8;
    using Queries = Tile<T, D, kQueries, kThreads>;
    using Keys = Tile<T, D, kKeys, kThreads>;
    static_assert(2 * kKeys >= kQueries);
    constexpr bool kInRegisters = Sizes<D, kWarps>::kInRegisters;
    __shared__ alignas(16) T shared[2 * Keys::kElements + (kInRegisters ? 0 : Queries::kElements)];
    T *k_tile = shared + (kInRegisters ? 0 : Queries::kElements), *v_tile = k_tile + Keys::kElements;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * kQueries, query = first + warp * 16 + lane / 4;
    const int end = causal ? min(h.keys, first + kQueries) : h.keys;  // of the keys that this block sees
    const float scale = h.scale * kLog2e;
    T* own_rows = shared + warp * 16 * kPitch<D>;
    k = h.at(k, h.keys, blockIdx.y), v = h.at(v, h.keys, blockIdx.y);

    Keys tile;
    tile.fetch(k, 0, h.keys, h);
    {
      Queries queries;
      queries.fetch(h.at(q, h.queries, blockIdx.y), first, h.queries, h);
      queries.store(shared);
    }
    __syncthreads();
    const Left<T, D, kInRegisters> a_q(own_rows);
    __syncthreads();
    tile.store(k_tile);
    __syncthreads();

    float sum[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // of rows g and g + 8
    for (int j = 0; j < end; j += kKeys) {
      tile.fetch(v, j, h.keys, h);
      float s[kGroups][4];
      multiply_transposed(s, a_q, k_tile);
      if (j + kKeys > h.keys || (causal && j + kKeys > first)) {
#pragma unroll
        for (int n = 0; n < kGroups; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int key = j + n * 8 + lane % 4 * 2 + i % 2;
            if (key >= h.keys || (causal && key > query + i / 2 * 8)) s[n][i] = -INFINITY;
          }
      }
      float shift[2], shrink[2];
#pragma unroll
      for (int r = 0; r < 2; r++) {
        float larger = most[r];
#pragma unroll
        for (int n = 0; n < kGroups; n++) larger = fmaxf(larger, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 1));
        larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 2));
        shrink[r] = exp2_approximate((most[r] - larger) * scale);
        most[r] = larger, shift[r] = larger * scale, total[r] *= shrink[r];
      }
      if (__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1)) {  // after a few tiles it seldom is
#pragma unroll
        for (int c = 0; c < D / 8; c++)
#pragma unroll
          for (int i = 0; i < 4; i++) sum[c][i] *= shrink[i / 2];
      }
      uint32_t a_p[kGroups][2];
#pragma unroll
      for (int n = 0; n < kGroups; n++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const float low = exp2_approximate(fmaf(s[n][2 * r], scale, -shift[r]));
          const float high = exp2_approximate(fmaf(s[n][2 * r + 1], scale, -shift[r]));
          total[r] += low + high;
          a_p[n][r] = packed<T>(low, high);
        }
      tile.store(v_tile);
      tile.fetch(k, j + kKeys, h.keys, h);
      __syncthreads();
      multiply_add<T, D, kGroups>(sum, a_p, v_tile);
      tile.store(k_tile);
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
      if (lane % 4 == 0 && query + 8 * r < h.queries)
        log_sum_exp[static_cast<int64_t>(blockIdx.y) * h.queries + query + 8 * r] = most[r] * h.scale + logf(total[r]);
    }
    store_rows<T, D>(sum, 1 / total[0], 1 / total[1], own_rows, h.at(o, h.queries, blockIdx.y), first + warp * 16, h.queries, h);
  }
}

template <class T, int D, int kWarps = 4> void launch_kernel(const Heads& h, bool causal, Context& c) {
  const dim3 grid(ceil_div(h.queries, 16 * kWarps), h.batch * h.heads);
  if constexpr (D > 80 && kWarps > 2)  // large heads come with few queries: smaller blocks reach more multiprocessors
    if (static_cast<int>(grid.x * grid.y) < c.gpu.multiprocessors) return launch_kernel<T, D, 2>(h, causal, c);
  launch("attention", attention_kernel<T, D, kWarps>, grid, 32 * kWarps, 0, c.stream, data<T>(c.in(0)), data<T>(c.in(1)), data<T>(c.in(2)),
         data<T>(c.out(0)), data<float>(c.out(1)), h, causal);
}

}  // namespace

Heads heads_of(const Shape& q, const Shape& k, int heads) {
  const int64_t batch = q[0], d = q[-1] / heads;
  CHECK(batch * heads <= 65535 && q.elements() / batch < int64_t{1} << 31 && k.elements() / batch < int64_t{1} << 31, "NOT_SUPPORTED",
        "Expected at most 65535 heads of less than 2^31 elements a sample but found q ", q, ", k ", k, " of ", heads, " heads");
  return {.queries = static_cast<int>(q.rows() / batch),
          .keys = static_cast<int>(k.rows() / batch),
          .heads = heads,
          .d = static_cast<int>(d),
          .scale = 1 / std::sqrt(static_cast<float>(d)),
          .batch = static_cast<int>(batch)};
}

template <> void run(const Attention& op, Context& c) {
  const Heads h = heads_of(c.in(0).shape, c.in(1).shape, op.heads);
  const DType dtype = c.in(0).dtype;
  if (!fits_tensor_cores(dtype, h)) return run_simt(h, op.causal, c);
  for_head_size(dtype, h.d, [&]<class T>(T, auto d) { launch_kernel<T, d>(h, op.causal, c); });
}

}  // namespace lorafuse::cuda
