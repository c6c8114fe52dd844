// dq, dk, dv of attention of f16 and bf16 on the tensor cores: FlashAttention-2 (arXiv:2307.08691), algorithm 2, in two kernels, so that
// no sum is shared by several blocks. With p = exp(scale·q·kᵀ − log_sum_exp), delta = Σ o·do, ds = p·(do·vᵀ − delta):
//   dq = scale·ds·k, a block for each tile of queries; it also leaves delta for the second kernel
//   dv = pᵀ·do, dk = scale·dsᵀ·q, a block for each tile of keys; few keys: the queries are split over blocks, and the splits are summed
// Causal ones go only through the keys up to a block's last query, and the queries from its first key on. Text encoders' heads are of 64.
// The mask takes registers: a multiprocessor has a block of queries less.
#include <algorithm>

#include "attention.cuh"

namespace lorafuse::cuda {
namespace {

// A block has 16 rows of its own a warp, and goes through the others kKeys or kQueries at a time.
constexpr int kMostWarps = 4;

template <class T, int D, int kWarps> using Rows = Tile<T, D, 16 * kWarps, 32 * kWarps>;

// Chosen to fit the registers and the 64 KB of shared memory of sm_75, with as many blocks as possible.
template <int D> struct Sizes {
  static constexpr int kKeys = D > 64 ? 16 : 32, kQueries = D > 40 ? 16 : 32;                // of a step
  static constexpr bool kHoldQueries = D <= 80, kHoldKeys = D <= 80, kHoldValues = D == 80;  // in registers
  static constexpr bool kAhead = D <= 80;                                                    // whether a step's loads begin a step before
  static constexpr int kQueryBlocks = D > 80 ? 1 : D > 40 ? 3 : 4, kKeyBlocks = D > 80 ? 1 : D > 64 ? 2 : 3;  // of a multiprocessor
};

// Shared memory: the block's own rows, unless they stay in registers, then the tiles of a step. Before and after the steps, rows on their
// way to and from registers pass through its beginning.
template <class T, int D, int kWarps, bool kInRegisters> constexpr int kOwn = kInRegisters ? 0 : Rows<T, D, kWarps>::kElements;

// Loads the block's rows into `shared`, once all threads have finished reading its old contents.
template <class T, int D, int kWarps>
__device__ __forceinline__ void load_own_rows(const T* x, int first, int tokens, const Heads& h, T* shared) {
  Rows<T, D, kWarps> rows;
  rows.fetch(x, first, tokens, h);
  __syncthreads();
  rows.store(shared);
  __syncthreads();
}

template <class T, int D, int kWarps, bool kCausal> __global__ void __launch_bounds__(32 * kWarps, Sizes<D>::kQueryBlocks - kCausal)
    query_grad_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ o,
                      const float* __restrict__ log_sum_exp, const T* __restrict__ dout, T* __restrict__ dq, float* __restrict__ delta,
                      Heads h) {
  if constexpr (kComputes<T>) {
    constexpr bool kInRegisters = Sizes<D>::kHoldQueries;
    constexpr int kKeys = Sizes<D>::kKeys, kGroups = kKeys / 8, kRows = 16 * kWarps;
    using Keys = Tile<T, D, kKeys, 32 * kWarps>;
    extern __shared__ uint4 memory[];
    T *q_rows = reinterpret_cast<T*>(memory), *dout_rows = q_rows + kOwn<T, D, kWarps, kInRegisters>;
    T *k_tile = dout_rows + kOwn<T, D, kWarps, kInRegisters>, *v_tile = k_tile + Keys::kElements;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * kRows, query = first + warp * 16 + lane / 4;
    const int own = warp * 16 * kPitch<D>, end = kCausal ? min(h.keys, first + kRows) : h.keys;
    const float scale = h.scale * kLog2e;
    k = h.at(k, h.keys, blockIdx.y), v = h.at(v, h.keys, blockIdx.y);

    load_own_rows<T, D, kWarps>(h.at(dout, h.queries, blockIdx.y), first, h.queries, h, dout_rows);
    const Left<T, D, kInRegisters> a_dout(dout_rows + own);
    load_own_rows<T, D, kWarps>(h.at(o, h.queries, blockIdx.y), first, h.queries, h, q_rows);
    float mean[2] = {0, 0}, shift[2];  // delta and log_sum_exp·log2(e) of rows g and g + 8
    {
      const Left<T, D, false> a_o(q_rows + own);
#pragma unroll
      for (int c = 0; c < D / 8; c += 2) {
        uint32_t x[2][2] = {}, y[2][2] = {};
        a_o.get(x[0], x[1], c), a_dout.get(y[0], y[1], c);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float2 left = unpack<T>(x[i / 2][i % 2]), right = unpack<T>(y[i / 2][i % 2]);
          mean[i % 2] += left.x * right.x + left.y * right.y;
        }
      }
    }
    load_own_rows<T, D, kWarps>(h.at(q, h.queries, blockIdx.y), first, h.queries, h, q_rows);
    const Left<T, D, kInRegisters> a_q(q_rows + own);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      mean[r] += __shfl_xor_sync(0xffffffffu, mean[r], 1);
      mean[r] += __shfl_xor_sync(0xffffffffu, mean[r], 2);
      const int64_t row = static_cast<int64_t>(blockIdx.y) * h.queries + query + 8 * r;
      shift[r] = query + 8 * r < h.queries ? log_sum_exp[row] * kLog2e : INFINITY;
      if (lane % 4 == 0 && query + 8 * r < h.queries) delta[row] = mean[r];
    }

    Keys k_next, v_next;
    k_next.fetch(k, 0, h.keys, h), v_next.fetch(v, 0, h.keys, h);
    float sum[D / 8][4] = {};
    for (int j = 0; j < end; j += kKeys) {
      __syncthreads();
      k_next.store(k_tile), v_next.store(v_tile);
      __syncthreads();
      k_next.fetch(k, j + kKeys, h.keys, h), v_next.fetch(v, j + kKeys, h.keys, h);
      float s[kGroups][4], ds[kGroups][4];
      multiply_transposed(s, a_q, k_tile);
      multiply_transposed(ds, a_dout, v_tile);
#pragma unroll
      for (int n = 0; n < kGroups; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float p = exp2_approximate(fmaf(s[n][i], scale, -shift[i / 2]));
          // Two selects: one for both takes registers, and spills on sm_100 and sm_120.
          ds[n][i] = j + kKeys > h.keys && j + n * 8 + lane % 4 * 2 + i % 2 >= h.keys ? 0 : p * (ds[n][i] - mean[i / 2]);
          if (kCausal && j + n * 8 + lane % 4 * 2 + i % 2 > query + i / 2 * 8) ds[n][i] = 0;
        }
      uint32_t a_ds[kGroups][2];
      pack_rows<T, kGroups>(a_ds, ds);
      multiply_add<T, D, kGroups>(sum, a_ds, k_tile);
    }
    __syncthreads();
    store_rows<T, D>(sum, h.scale, h.scale, q_rows + own, h.at(dq, h.queries, blockIdx.y), first + warp * 16, h.queries, h);
  }
}

// `split_sums` [splits, 2, B, keys, C]: dk, dv of each split of the queries, where there are several.
template <class T, int D, bool kCausal> __global__ void __launch_bounds__(32 * kMostWarps, resident_blocks(Sizes<D>::kKeyBlocks))
    key_grad_kernel(const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ log_sum_exp,
                    const T* __restrict__ dout, T* __restrict__ dk, T* __restrict__ dv, const float* __restrict__ delta,
                    float* __restrict__ split_sums, int per_split, Heads h) {
  if constexpr (kComputes<T>) {
    constexpr int kWarps = kMostWarps, kRows = 16 * kWarps, kQueries = Sizes<D>::kQueries, kGroups = kQueries / 8;
    using Queries = Tile<T, D, kQueries, 32 * kWarps>;
    constexpr bool kHoldKeys = Sizes<D>::kHoldKeys, kHoldValues = Sizes<D>::kHoldValues;
    __shared__ alignas(16) float2 statistics[kQueries];  // log_sum_exp·log2(e), delta
    extern __shared__ uint4 memory[];
    T *k_rows = reinterpret_cast<T*>(memory), *v_rows = k_rows + kOwn<T, D, kWarps, kHoldKeys>;
    T *q_tile = v_rows + kOwn<T, D, kWarps, kHoldValues>, *dout_tile = q_tile + Queries::kElements;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * kRows, own = warp * 16 * kPitch<D>;
    const int split = blockIdx.z * per_split, begin = kCausal ? max(split, first) : split, end = min(h.queries, split + per_split);
    const float scale = h.scale * kLog2e;
    q = h.at(q, h.queries, blockIdx.y), dout = h.at(dout, h.queries, blockIdx.y);
    log_sum_exp += static_cast<int64_t>(blockIdx.y) * h.queries, delta += static_cast<int64_t>(blockIdx.y) * h.queries;

    load_own_rows<T, D, kWarps>(h.at(k, h.keys, blockIdx.y), first, h.keys, h, k_rows);
    const Left<T, D, kHoldKeys> a_k(k_rows + own);
    load_own_rows<T, D, kWarps>(h.at(v, h.keys, blockIdx.y), first, h.keys, h, v_rows);
    const Left<T, D, kHoldValues> a_v(v_rows + own);

    Queries q_next, dout_next;
    float2 next;
    auto fetch = [&](int i) {
      q_next.fetch(q, i, end, h), dout_next.fetch(dout, i, end, h);
      const int query = i + static_cast<int>(threadIdx.x);
      next = threadIdx.x < kQueries && query < end ? float2{log_sum_exp[query] * kLog2e, delta[query]} : float2{INFINITY, 0};
    };
    if constexpr (Sizes<D>::kAhead) fetch(begin);
    float dk_sum[D / 8][4] = {}, dv_sum[D / 8][4] = {};
    for (int i = begin; i < end; i += kQueries) {
      __syncthreads();
      if constexpr (!Sizes<D>::kAhead) fetch(i);
      q_next.store(q_tile), dout_next.store(dout_tile);
      if (threadIdx.x < kQueries) statistics[threadIdx.x] = next;
      __syncthreads();
      if constexpr (Sizes<D>::kAhead) fetch(i + kQueries);
      float p[kGroups][4], ds[kGroups][4];  // [16 keys, kQueries]
      multiply_transposed(p, a_k, q_tile);
      multiply_transposed(ds, a_v, dout_tile);
#pragma unroll
      for (int n = 0; n < kGroups; n++) {
        const float4 two = *reinterpret_cast<const float4*>(statistics + n * 8 + lane % 4 * 2);
#pragma unroll
        for (int x = 0; x < 4; x++) {
          p[n][x] = exp2_approximate(fmaf(p[n][x], scale, x % 2 ? -two.z : -two.x));
          if (kCausal && first + warp * 16 + lane / 4 + x / 2 * 8 > i + n * 8 + lane % 4 * 2 + x % 2) p[n][x] = 0;
          ds[n][x] = p[n][x] * (ds[n][x] - (x % 2 ? two.w : two.y));
        }
      }
      uint32_t a_p[kGroups][2], a_ds[kGroups][2];
      pack_rows<T, kGroups>(a_p, p), pack_rows<T, kGroups>(a_ds, ds);
      multiply_add<T, D, kGroups>(dv_sum, a_p, dout_tile);
      if constexpr (D > 80) __syncwarp();  // or the compiler loads what is next too early, and spills
      multiply_add<T, D, kGroups>(dk_sum, a_ds, q_tile);
    }
    if (gridDim.z == 1) {
      __syncthreads();
      T* rows = k_rows + own;
      store_rows<T, D>(dk_sum, h.scale, h.scale, rows, h.at(dk, h.keys, blockIdx.y), first + warp * 16, h.keys, h);
      __syncwarp();
      store_rows<T, D>(dv_sum, 1, 1, rows, h.at(dv, h.keys, blockIdx.y), first + warp * 16, h.keys, h);
    } else {
      const int64_t elements = static_cast<int64_t>(gridDim.y / h.heads) * h.keys * h.stride();
      float *dk_split = h.at(split_sums + 2 * blockIdx.z * elements, h.keys, blockIdx.y), *dv_split = dk_split + elements;
#pragma unroll
      for (int c = 0; c < D / 8; c++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const int key = first + warp * 16 + lane / 4 + r * 8, column = c * 8 + lane % 4 * 2;
          if (key >= h.keys || column >= h.d) continue;
          *reinterpret_cast<float2*>(dk_split + key * h.stride() + column) = {dk_sum[c][2 * r] * h.scale, dk_sum[c][2 * r + 1] * h.scale};
          *reinterpret_cast<float2*>(dv_split + key * h.stride() + column) = {dv_sum[c][2 * r], dv_sum[c][2 * r + 1]};
        }
    }
  }
}

// dk, dv = the sums of split_sums [splits, 2, elements], first to last.
template <class T> __global__ void __launch_bounds__(256)
    sum_splits_kernel(const float* __restrict__ split_sums, T* __restrict__ dk, T* __restrict__ dv, int splits, int elements) {
  if constexpr (kComputes<T>) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= elements) return;
    const float* from = split_sums + static_cast<int64_t>(blockIdx.y) * elements + i;
    float sum = 0;
    for (int s = 0; s < splits; s++) sum += from[2 * static_cast<int64_t>(s) * elements];
    (blockIdx.y ? dv : dk)[i] = from_float<T>(sum);
  }
}

constexpr int kQueryStep = 32;  // splits are multiples of it

// Into how many splits the queries are cut so that blocks of keys occupy the GPU, and queries of a split.
struct Splits { int count, queries; };
Splits splits_of(const Heads& h, const Gpu& gpu) {
  const int64_t blocks = int64_t{ceil_div(h.keys, 16 * kMostWarps)} * h.batch * h.heads;
  const int tiles = ceil_div(h.queries, kQueryStep);
  const int wanted = std::clamp(static_cast<int>(3 * gpu.multiprocessors / blocks), 1, std::max(1, tiles / 4));
  const int queries = ceil_div(tiles, wanted) * kQueryStep;
  return {ceil_div(h.queries, queries), queries};
}

size_t delta_bytes(const Heads& h) { return ceil_div<size_t>(size_t{1} * h.batch * h.heads * h.queries * sizeof(float), 256) * 256; }

// A kernel must opt in to more than 48 KB of shared memory.
template <class Kernel> void allow_shared(Kernel* kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return;
  CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

template <class T, int D, int kWarps, bool kCausal> void launch_query_grad(const Heads& h, float* delta, Context& c) {
  using S = Sizes<D>;
  const dim3 grid(ceil_div(h.queries, 16 * kWarps), h.batch * h.heads);
  if constexpr (D > 80 && kWarps == kMostWarps)  // large heads come with few queries: smaller blocks reach more multiprocessors
    if (static_cast<int>(grid.x * grid.y) < c.gpu.multiprocessors) return launch_query_grad<T, D, 2, kCausal>(h, delta, c);
  constexpr int kTiles = 2 * (kOwn<T, D, kWarps, S::kHoldQueries> + S::kKeys * kPitch<D>);
  constexpr size_t kBytes = std::max(kTiles, Rows<T, D, kWarps>::kElements) * sizeof(T);
  allow_shared(query_grad_kernel<T, D, kWarps, kCausal>, kBytes);
  launch("attention's dq", query_grad_kernel<T, D, kWarps, kCausal>, grid, 32 * kWarps, kBytes, c.stream, data<T>(c.in(0)),
         data<T>(c.in(1)), data<T>(c.in(2)), data<T>(c.in(3)), data<float>(c.in(4)), data<T>(c.in(5)), data<T>(c.out(0)), delta, h);
}

template <class T, int D, bool kCausal> void launch_kernels(const Heads& h, Context& c) {
  using S = Sizes<D>;
  constexpr int kOwnTiles = kOwn<T, D, kMostWarps, S::kHoldKeys> + kOwn<T, D, kMostWarps, S::kHoldValues>;
  constexpr size_t kBytes = std::max(kOwnTiles + 2 * S::kQueries * kPitch<D>, Rows<T, D, kMostWarps>::kElements) * sizeof(T);
  float* delta = static_cast<float*>(c.workspace);
  float* split_sums = delta + delta_bytes(h) / sizeof(float);
  const Splits splits = splits_of(h, c.gpu);
  T *dk = data<T>(c.out(1)), *dv = data<T>(c.out(2));
  launch_query_grad<T, D, kMostWarps, kCausal>(h, delta, c);
  const dim3 grid(ceil_div(h.keys, 16 * kMostWarps), h.batch * h.heads, splits.count);
  allow_shared(key_grad_kernel<T, D, kCausal>, kBytes);
  launch("attention's dk and dv", key_grad_kernel<T, D, kCausal>, grid, 32 * kMostWarps, kBytes, c.stream, data<T>(c.in(0)),
         data<T>(c.in(1)), data<T>(c.in(2)), data<float>(c.in(4)), data<T>(c.in(5)), dk, dv, delta, split_sums, splits.queries, h);
  if (splits.count == 1) return;
  const int elements = static_cast<int>(c.out(1).shape.elements());
  launch("sum of dk and dv", sum_splits_kernel<T>, dim3(ceil_div(elements, 256), 2), 256, 0, c.stream, split_sums, dk, dv, splits.count,
         elements);
}

// The causal kernels are compiled for one head size, at which smaller heads run too.
constexpr int kTextHead = 64;
bool on_tensor_cores(const AttentionGrad& op, DType dtype, const Heads& h) {
  return fits_tensor_cores(dtype, h) && (!op.causal || h.d <= kTextHead);
}

}  // namespace

template <> void run(const AttentionGrad& op, Context& c) {
  const Heads h = heads_of(c.in(0).shape, c.in(1).shape, op.heads);
  const DType dtype = c.in(0).dtype;
  if (!on_tensor_cores(op, dtype, h)) return run_simt_grad(h, op.causal, static_cast<float*>(c.workspace), c);
  if (!op.causal) for_head_size(dtype, h.d, [&]<class T>(T, auto d) { launch_kernels<T, d, false>(h, c); });
  else if (dtype == DType::f16) launch_kernels<__half, kTextHead, true>(h, c);
  else launch_kernels<__nv_bfloat16, kTextHead, true>(h, c);
}

template <> size_t workspace_bytes(const AttentionGrad& op, std::span<const Value> inputs, const Gpu& gpu) {
  const Heads h = heads_of(inputs[0].shape, inputs[1].shape, op.heads);
  const int splits = on_tensor_cores(op, inputs[0].dtype, h) ? splits_of(h, gpu).count : 1;
  return delta_bytes(h) + (splits > 1 ? splits * 2 * inputs[1].shape.elements() * sizeof(float) : 0);
}

}  // namespace lorafuse::cuda
