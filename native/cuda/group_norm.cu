// Normalisation over groups of channels (arXiv:1803.08494), SiLU after it where asked, and the gradient.
//   x̂ = (x − mean)·rstd,  z = x̂·γ + β,  y = z or silu(z);  dz = dy or dy·silu'(z)
//   dx = rstd·(γ·dz − mean(γ·dz) − x̂·mean(γ·dz·x̂))   (torch:aten/src/ATen/native/group_norm.cpp)
// Groups that fit into a block take one launch. Others take three: sums of parts of groups, what follows from them for each group, and the
// elements, last chunk first, as the cache still has it. x and dy are read twice.
// Statistics: the mean of each part, then Σ(x − mean)² around it, both from registers; parts are combined in their order
// (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
#include "groups.cuh"
#include "kernels.h"
#include "math.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = Groups::kThreads, kBlocks = 3;  // of a block; on a multiprocessor

// What the N channels of a thread have in common over positions.
template <int N>
struct Channels {
  float mean[N], scale[N], beta[N];  // scale: γ·rstd

  // `first` and `second`: mean and rstd of the groups of `split`.
  __device__ __forceinline__ void load(int channel, const Split<N>& split, const float* gamma, const float* beta_, float2 first,
                                       float2 second) {
    cuda::load(gamma + channel, scale);
    cuda::load(beta_ + channel, beta);
#pragma unroll
    for (int i = 0; i < N; i++) {
      mean[i] = split(i) ? second.x : first.x;
      scale[i] *= split(i) ? second.y : first.y;
    }
  }
};

// The values of both groups of a split, in [groups].
template <int N>
struct Pair {
  float2 first, second;
  __device__ __forceinline__ Pair(const Split<N>& split, const float2* values)
      : first(values[split.index]), second(split.two() ? values[split.index + 1] : first) {}
};

template <bool kSilu, int N>
__device__ __forceinline__ float normalised(const Channels<N>& c, int i, float x) {
  const float z = (x - c.mean[i]) * c.scale[i] + c.beta[i];
  return kSilu ? silu(z) : z;
}

// x − mean and dz.
template <bool kSilu, int N>
__device__ __forceinline__ float2 centred(const Channels<N>& c, int i, float x, float dy) {
  const float d = x - c.mean[i];
  return {d, kSilu ? dy * silu_grad(d * c.scale[i] + c.beta[i]) : dy};
}

// The thread's vectors of x into `held`; mean and Σ(x − mean)² of the block's share of its own part.
template <class T, int N>
__device__ __forceinline__ float2 moments(const Groups& n, const Place<N>& at, int elements, const T* x,
                                          Vector<T, N> (&held)[Groups::kHeld], GroupScratch<2>& scratch) {
  const Split<N> split = split_of<N>(n);
  const float size = static_cast<float>(elements);
  float sum[1][N] = {}, around[2][N] = {};
  for_held(n, at, [&](int k, int64_t offset) { held[k].load(x + offset); });
  for_held(n, at, [&](int k, int64_t) {
#pragma unroll
    for (int i = 0; i < N; i++) sum[0][i] += held[k][i];
  });
  sum_parts(n, split, sum, scratch);
  const float first = scratch.parts[0][split.index] / size, second = split.two() ? scratch.parts[0][split.index + 1] / size : first;
  const float own = own_part<N>(n) >= 0 ? scratch.parts[0][threadIdx.x] / size : 0;
  for_held(n, at, [&](int k, int64_t) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float d = held[k][i] - (split(i) ? second : first);
      around[0][i] += d;
      around[1][i] += d * d;
    }
  });
  sum_parts(n, split, around, scratch);
  if (own_part<N>(n) < 0) return {0, 0};
  // What rounding left of Σ(x − shift) corrects the mean.
  const float rest = scratch.parts[0][threadIdx.x], correction = rest / size;
  return {own + correction, fmaxf(0.0f, scratch.parts[1][threadIdx.x] - rest * correction)};
}

// scratch.parts = Σ γ·rstd·dz and Σ γ·rstd·dz·(x − mean) of the block's share of each part.
template <bool kSilu, class T, int N>
__device__ __forceinline__ void gradient_sums(const Groups& n, const Place<N>& at, const Channels<N>& c, const T* x, const T* dy,
                                              GroupScratch<2>& scratch) {
  float sums[2][N] = {};
  for_held(n, at, [&](int, int64_t offset) {
    Vector<T, N> a, g;
    a.load(x + offset);
    g.load(dy + offset);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float2 d = centred<kSilu>(c, i, a[i], g[i]);
      sums[0][i] += d.y;
      sums[1][i] += d.y * d.x;
    }
  });
  if (!at.idle()) {
#pragma unroll
    for (int i = 0; i < N; i++) sums[0][i] *= c.scale[i], sums[1][i] *= c.scale[i];
  }
  sum_parts(n, split_of<N>(n), sums, scratch);
}

// Means over a group of γ·rstd·dz and of γ·rstd·dz·(x − mean)·rstd².
__device__ __forceinline__ float2 gradient_means(const Groups& n, float sum, float products, float rstd) {
  const float size = static_cast<float>(n.positions) * n.width;
  return {sum / size, rstd * rstd * (products / size)};
}

// dx = γ·rstd·dz − means.x − (x − mean)·means.y (+ residual)
template <bool kSilu, class T, int N>
__device__ __forceinline__ void input_gradient(const Groups& n, const Place<N>& at, const Split<N>& split, const Channels<N>& c,
                                               float2 first, float2 second, const T* x, const T* dy, const T* residual, T* dx) {
  for_held(n, at, [&](int, int64_t offset) {
    Vector<T, N> a, g;
    a.load(x + offset);
    g.load(dy + offset);
    float out[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float2 d = centred<kSilu>(c, i, a[i], g[i]);
      out[i] = c.scale[i] * d.y - (split(i) ? second.x : first.x) - d.x * (split(i) ? second.y : first.y);
    }
    if (residual) add(residual + offset, out);
    store(dx + offset, out);
  });
}

// All of GroupNorm where a block has whole groups.
template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, blocks_held(kBlocks))
    group_norm_whole(Groups n, float eps, const T* x, const float* gamma, const float* beta, T* y, float2* statistics) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch<2> scratch;
    __shared__ float2 found[kThreads];
    const Place<N> at(n, 0);
    const int elements = n.positions * n.width, own = own_part<N>(n);
    Vector<T, N> held[Groups::kHeld];
    const float2 m = moments(n, at, elements, x, held, scratch);
    if (own >= 0) {
      found[threadIdx.x] = {m.x, 1 / sqrtf(m.y / static_cast<float>(elements) + eps)};
      statistics[blockIdx.z * n.groups + own] = found[threadIdx.x];
    }
    __syncthreads();
    if (at.idle()) return;
    const Split<N> split = split_of<N>(n);
    const Pair<N> s(split, found);
    Channels<N> c;
    c.load(at.channel, split, gamma, beta, s.first, s.second);
    for_held(n, at, [&](int k, int64_t offset) {
      float out[N];
#pragma unroll
      for (int i = 0; i < N; i++) out[i] = normalised<kSilu>(c, i, held[k][i]);
      store(y + offset, out);
    });
  }
}

// sums [B, parts, chunks] = moments() of chunk blockIdx.x.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks) group_moments(Groups n, const T* x, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch<2> scratch;
    const int own = own_part<N>(n);
    Vector<T, N> held[Groups::kHeld];
    const float2 m = moments(n, Place<N>(n, blockIdx.x), n.positions_of(blockIdx.x) * n.part, x, held, scratch);
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

template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_normalise(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, T* y) {
  if constexpr (kComputes<T>) {
    const Place<N> at(n, n.chunks - 1 - blockIdx.x);
    if (at.idle()) return;
    const Split<N> split(at.channel, n.width);
    const Pair<N> s(split, statistics + blockIdx.z * n.groups);
    Channels<N> c;
    c.load(at.channel, split, gamma, beta, s.first, s.second);
    for_held(n, at, [&](int, int64_t offset) {
      float a[N];
      load(x + offset, a);
#pragma unroll
      for (int i = 0; i < N; i++) a[i] = normalised<kSilu>(c, i, a[i]);
      store(y + offset, a);
    });
  }
}

// All of GroupNormGrad where a block has whole groups.
template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks - 1)
    group_norm_grad_whole(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy,
                          const T* residual, T* dx) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch<2> scratch;
    __shared__ float2 found[kThreads];
    const Place<N> at(n, 0);
    const float2* samples = statistics + blockIdx.z * n.groups;
    Channels<N> c;
    if (!at.idle()) {
      const Split<N> split(at.channel, n.width);
      const Pair<N> s(split, samples);
      c.load(at.channel, split, gamma, beta, s.first, s.second);
    }
    gradient_sums<kSilu>(n, at, c, x, dy, scratch);
    const int own = own_part<N>(n);
    if (own >= 0) found[threadIdx.x] = gradient_means(n, scratch.parts[0][threadIdx.x], scratch.parts[1][threadIdx.x], samples[own].y);
    __syncthreads();
    if (at.idle()) return;
    const Split<N> split = split_of<N>(n);
    const Pair<N> means(split, found);
    input_gradient<kSilu>(n, at, split, c, means.first, means.second, x, dy, residual, dx);
  }
}

// sums [B, parts, chunks] = gradient_sums() of chunk blockIdx.x.
template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient_sums(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch<2> scratch;
    const Place<N> at(n, blockIdx.x);
    Channels<N> c;
    if (!at.idle()) {
      const Split<N> split(at.channel, n.width);
      const Pair<N> s(split, statistics + blockIdx.z * n.groups);
      c.load(at.channel, split, gamma, beta, s.first, s.second);
    }
    gradient_sums<kSilu>(n, at, c, x, dy, scratch);
    const int own = own_part<N>(n);
    if (own < 0) return;
    sums[(static_cast<int64_t>(blockIdx.z) * n.parts() + own) * n.chunks + blockIdx.x] = {scratch.parts[0][threadIdx.x],
                                                                                          scratch.parts[1][threadIdx.x]};
  }
}

// means [B, groups] = gradient_means(). Group blockIdx.x of all B · groups.
__global__ void __launch_bounds__(kThreads) group_gradient_means(Groups n, const float2* sums, const float2* statistics, float2* means) {
  __shared__ float scratch[2][32];
  const int count = n.width / n.part * n.chunks;
  const float2* own = sums + static_cast<int64_t>(blockIdx.x) * count;
  float sum = 0, products = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += own[i].x, products += own[i].y;
  sum = block_sum<kThreads>(sum, scratch[0]);
  products = block_sum<kThreads>(products, scratch[1]);
  if (threadIdx.x == 0) means[blockIdx.x] = gradient_means(n, sum, products, statistics[blockIdx.x].y);
}

template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, const float2* means,
                   const T* residual, T* dx) {
  if constexpr (kComputes<T>) {
    const Place<N> at(n, n.chunks - 1 - blockIdx.x);
    if (at.idle()) return;
    const Split<N> split(at.channel, n.width);
    const Pair<N> s(split, statistics + blockIdx.z * n.groups), m(split, means + blockIdx.z * n.groups);
    Channels<N> c;
    c.load(at.channel, split, gamma, beta, s.first, s.second);
    input_gradient<kSilu>(n, at, split, c, m.first, m.second, x, dy, residual, dx);
  }
}

// Pairs of floats in the workspace.
size_t sums_of(const ::lorafuse::Value& x, int groups) {
  size_t sums = 0;
  for_groups(x.dtype, x.shape[-1], groups, [&](auto, auto lanes) { sums = Groups(x.shape, groups, lanes).sums(x.shape[0]); });
  return sums;
}

}  // namespace

size_t workspace_bytes(const GroupNorm& op, std::span<const ::lorafuse::Value> inputs, const Gpu&) {
  return sums_of(inputs[0], op.groups) * sizeof(float2);
}
size_t workspace_bytes(const GroupNormGrad& op, std::span<const ::lorafuse::Value> inputs, const Gpu&) {
  const size_t sums = sums_of(inputs[0], op.groups);
  return sums ? (sums + inputs[0].shape[0] * op.groups) * sizeof(float2) : 0;
}

void run(const GroupNorm& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  float2 *sums = static_cast<float2*>(c.workspace), *statistics = data<float2>(c.out(1));
  for_groups(c.in(0).dtype, shape[-1], op.groups, [&](auto type, auto lanes) {
    using T = decltype(type);
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

void run(const GroupNormGrad& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  const float2* statistics = data<float2>(c.in(3));
  for_groups(c.in(0).dtype, shape[-1], op.groups, [&](auto type, auto lanes) {
    using T = decltype(type);
    const Groups n(shape, op.groups, lanes);
    const dim3 grid = n.grid(shape[0]);
    const T *x = data<T>(c.in(0)), *dy = data<T>(c.in(4)), *residual = op.residual ? data<T>(c.last_in()) : nullptr;
    T* dx = data<T>(c.out(0));
    if (n.whole)
      return launch("group_norm_grad_whole", op.silu ? group_norm_grad_whole<T, lanes, true> : group_norm_grad_whole<T, lanes, false>, grid,
                    kThreads, 0, c.stream, n, x, gamma, beta, statistics, dy, residual, dx);
    float2 *sums = static_cast<float2*>(c.workspace), *means = sums + n.sums(shape[0]);
    launch("group_gradient_sums", op.silu ? group_gradient_sums<T, lanes, true> : group_gradient_sums<T, lanes, false>, grid, kThreads, 0,
           c.stream, n, x, gamma, beta, statistics, dy, sums);
    launch("group_gradient_means", group_gradient_means, shape[0] * op.groups, kThreads, 0, c.stream, n, sums, statistics, means);
    launch("group_gradient", op.silu ? group_gradient<T, lanes, true> : group_gradient<T, lanes, false>, grid, kThreads, 0, c.stream, n, x,
           gamma, beta, statistics, dy, means, residual, dx);
  });
}

}  // namespace lorafuse::cuda
