// Normalisation over groups of channels (arXiv:1803.08494), SiLU after it where asked.
//   x̂ = (x − mean)·rstd,  z = x̂·γ + β,  y = z or silu(z)   (torch:aten/src/ATen/native/group_norm.cpp)
// Groups that fit into a block take one launch. Others take three: sums of parts of groups, statistics of each group, and the elements,
// last chunk first, as it is still in the cache.
// Statistics: the mean of each part, then Σ(x − mean)² around it, both from registers; parts are combined in their order
// (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
#include "group_norm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = Groups::kThreads, kBlocks = kGroupBlocks;

template <bool kSilu, int N> __device__ __forceinline__ float normalised(const Channels<N>& c, int i, float x) {
  const float z = (x - c.mean[i]) * c.scale[i] + c.beta[i];
  return kSilu ? silu(z) : z;
}

// The thread's vectors of x into `vectors`; mean and Σ(x − mean)² of the block's share of its own part.
template <class T, int N> __device__ __forceinline__ float2 moments(const Groups& n, const Position<N>& at, int elements, const T* x,
                                                                    Vector<T, N> (&vectors)[Groups::kMostVectors], GroupScratch& scratch) {
  const Split<N> split = split_of<N>(n);
  const float size = static_cast<float>(elements);
  float sum[1][N] = {}, around[2][N] = {};
  for_own_vectors(n, at, [&](int k, int64_t offset) { vectors[k].load(x + offset); });
  for_own_vectors(n, at, [&](int k, int64_t) {
#pragma unroll
    for (int i = 0; i < N; i++) sum[0][i] += vectors[k][i];
  });
  sum_parts(n, split, sum, scratch);
  const float first = scratch.parts[0][split.index] / size, second = split.two() ? scratch.parts[0][split.index + 1] / size : first;
  const float own = own_part<N>(n) >= 0 ? scratch.parts[0][threadIdx.x] / size : 0;
  for_own_vectors(n, at, [&](int k, int64_t) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float d = vectors[k][i] - (split(i) ? second : first);
      around[0][i] += d;
      around[1][i] += d * d;
    }
  });
  sum_parts(n, split, around, scratch);
  if (own_part<N>(n) < 0) return {0, 0};
  // Σ(x − shift) is what rounding of the first sum left over: it corrects the mean.
  const float rest = scratch.parts[0][threadIdx.x], correction = rest / size;
  return {own + correction, fmaxf(0.0f, scratch.parts[1][threadIdx.x] - rest * correction)};
}

// All of GroupNorm where a block has whole groups.
template <class T, int N, bool kSilu> __global__ void __launch_bounds__(kThreads, resident_blocks(kBlocks))
    group_norm_whole(Groups n, float eps, const T* x, const float* gamma, const float* beta, T* y, float2* statistics) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch scratch;
    __shared__ float2 found[kThreads];
    const Position<N> at(n, 0);
    const int elements = n.positions * n.width, own = own_part<N>(n);
    Vector<T, N> vectors[Groups::kMostVectors];
    const float2 m = moments(n, at, elements, x, vectors, scratch);
    if (own >= 0) {
      found[threadIdx.x] = {m.x, 1 / sqrtf(m.y / static_cast<float>(elements) + eps)};
      statistics[blockIdx.z * n.groups + own] = found[threadIdx.x];
    }
    __syncthreads();
    if (at.idle()) return;
    Channels<N> c;
    c.load(at.channel, split_of<N>(n), gamma, beta, found);
    for_own_vectors(
        n, at, [&](int k, int64_t offset) { store_each<N>(y + offset, [&](int i) { return normalised<kSilu>(c, i, vectors[k][i]); }); });
  }
}

// sums [B, parts, chunks] = moments() of chunk blockIdx.x.
template <class T, int N> __global__ void __launch_bounds__(kThreads, kBlocks) group_moments(Groups n, const T* x, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch scratch;
    const int own = own_part<N>(n);
    Vector<T, N> vectors[Groups::kMostVectors];
    const float2 m = moments(n, Position<N>(n, blockIdx.x), n.positions_of(blockIdx.x) * n.part, x, vectors, scratch);
    if (own >= 0) sums[(static_cast<int64_t>(blockIdx.z) * n.parts() + own) * n.chunks + blockIdx.x] = m;
  }
}

// statistics [B, groups] = mean, rstd. Group blockIdx.x of all B · groups.
__global__ void __launch_bounds__(kThreads) group_statistics(Groups n, float eps, const float2* sums, float2* statistics) {
  __shared__ float scratch[2][32];
  const int count = n.width / n.part * n.chunks;  // of a group, chunks innermost
  const float2* own = sums + static_cast<int64_t>(blockIdx.x) * count;
  const float shift = own[0].x, size = static_cast<float>(n.positions) * n.width;
  const auto elements = [&](int i) { return static_cast<float>(n.positions_of(i % n.chunks) * n.part); };
  float sum = 0, squares = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += elements(i) * (own[i].x - shift);
  const float mean = shift + block_sum<kThreads>(sum, scratch[0]) / size;
  for (int i = threadIdx.x; i < count; i += kThreads) squares += own[i].y + elements(i) * (own[i].x - mean) * (own[i].x - mean);
  squares = block_sum<kThreads>(squares, scratch[1]);
  if (threadIdx.x == 0) statistics[blockIdx.x] = {mean, 1 / sqrtf(squares / size + eps)};
}

template <class T, int N, bool kSilu> __global__ void __launch_bounds__(kThreads, kBlocks)
    group_normalise(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, T* y) {
  if constexpr (kComputes<T>) {
    const Position<N> at(n, n.chunks - 1 - blockIdx.x);
    if (at.idle()) return;
    Channels<N> c;
    c.load(at.channel, Split<N>(at.channel, n.width), gamma, beta, statistics + blockIdx.z * n.groups);
    for_own_vectors(n, at, [&](int, int64_t offset) {
      const Vector<T, N> a(x + offset);
      store_each<N>(y + offset, [&](int i) { return normalised<kSilu>(c, i, a[i]); });
    });
  }
}

}  // namespace

template <> size_t workspace_bytes(const GroupNorm& op, std::span<const Value> inputs, const Gpu&) {
  return group_sums(inputs[0], op.groups) * sizeof(float2);
}
template <> void run(const GroupNorm& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  float2 *sums = static_cast<float2*>(c.workspace), *statistics = data<float2>(c.out(1));
  for_groups(c.in(0).dtype, shape[-1], op.groups, [&]<class T>(T, auto lanes) {
    const Groups n(shape, op.groups, lanes);
    const dim3 grid = n.grid(shape[0]);
    const T* x = data<T>(c.in(0));
    T* y = data<T>(c.out(0));
    if (n.whole)
      return launch("group_norm_whole", op.silu ? group_norm_whole<T, lanes, true> : group_norm_whole<T, lanes, false>, grid, kThreads, 0,
                    c.stream, n, op.eps, x, gamma, beta, y, statistics);
    launch("group_moments", group_moments<T, lanes>, grid, kThreads, 0, c.stream, n, x, sums);
    launch("group_statistics", group_statistics, shape[0] * op.groups, kThreads, 0, c.stream, n, op.eps, sums, statistics);
    launch("group_normalise", op.silu ? group_normalise<T, lanes, true> : group_normalise<T, lanes, false>, grid, kThreads, 0, c.stream, n,
           x, gamma, beta, statistics, y);
  });
}

}  // namespace lorafuse::cuda
