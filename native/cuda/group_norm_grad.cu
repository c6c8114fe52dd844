// The gradient of normalisation over groups of channels, with SiLU after it or not.
//   x̂ = (x − mean)·rstd,  z = x̂·γ + β,  dz = dy or dy·silu'(z)
//   dx = rstd·(γ·dz − mean(γ·dz) − x̂·mean(γ·dz·x̂))   (torch:aten/src/ATen/native/group_norm.cpp)
// One launch or three, as forward; three read x and dy twice.
#include "group_norm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = Groups::kThreads, kBlocks = kGroupBlocks;

// x − mean and dz.
template <bool kSilu, int N> __device__ __forceinline__ float2 centred(const Channels<N>& c, int i, float x, float dy) {
  const float d = x - c.mean[i];
  return {d, kSilu ? dy * silu_grad(d * c.scale[i] + c.beta[i]) : dy};
}

// scratch.parts = Σ γ·rstd·dz and Σ γ·rstd·dz·(x − mean) of the block's share of each part.
template <bool kSilu, class T, int N> __device__ __forceinline__ void gradient_sums(const Groups& n, const Position<N>& at,
                                                                                    const Channels<N>& c, const T* x, const T* dy,
                                                                                    GroupScratch& scratch) {
  float sums[2][N] = {};
  for_own_vectors(n, at, [&](int, int64_t offset) {
    const Vector<T, N> a(x + offset), g(dy + offset);
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

// dx = γ·rstd·dz − means.x − (x − mean)·means.y (+ residual), with the means of each group that `split` counts.
template <bool kSilu, class T, int N>
__device__ __forceinline__ void input_gradient(const Groups& n, const Position<N>& at, const Split<N>& split, const Channels<N>& c,
                                               const Pair<N>& means, const T* x, const T* dy, const T* residual, T* dx) {
  for_own_vectors(n, at, [&](int, int64_t offset) {
    const Vector<T, N> a(x + offset), g(dy + offset);
    float out[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float2 d = centred<kSilu>(c, i, a[i], g[i]);
      out[i] = c.scale[i] * d.y - (split(i) ? means.second.x : means.first.x) - d.x * (split(i) ? means.second.y : means.first.y);
    }
    if (residual) add(residual + offset, out);
    store(dx + offset, out);
  });
}

// All of GroupNormGrad where a block has whole groups.
template <class T, int N, bool kSilu> __global__ void __launch_bounds__(kThreads, kBlocks - 1)
    group_norm_grad_whole(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy,
                          const T* residual, T* dx) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch scratch;
    __shared__ float2 found[kThreads];
    const Position<N> at(n, 0);
    const float2* samples = statistics + blockIdx.z * n.groups;
    Channels<N> c;
    if (!at.idle()) c.load(at.channel, Split<N>(at.channel, n.width), gamma, beta, samples);
    gradient_sums<kSilu>(n, at, c, x, dy, scratch);
    const int own = own_part<N>(n);
    if (own >= 0) found[threadIdx.x] = gradient_means(n, scratch.parts[0][threadIdx.x], scratch.parts[1][threadIdx.x], samples[own].y);
    __syncthreads();
    if (at.idle()) return;
    const Split<N> split = split_of<N>(n);
    input_gradient<kSilu>(n, at, split, c, Pair<N>(split, found), x, dy, residual, dx);
  }
}

// sums [B, parts, chunks] = gradient_sums() of chunk blockIdx.x.
template <class T, int N, bool kSilu> __global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient_sums(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ GroupScratch scratch;
    const Position<N> at(n, blockIdx.x);
    Channels<N> c;
    if (!at.idle()) c.load(at.channel, Split<N>(at.channel, n.width), gamma, beta, statistics + blockIdx.z * n.groups);
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

template <class T, int N, bool kSilu> __global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient(Groups n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, const float2* means,
                   const T* residual, T* dx) {
  if constexpr (kComputes<T>) {
    const Position<N> at(n, n.chunks - 1 - blockIdx.x);
    if (at.idle()) return;
    const Split<N> split(at.channel, n.width);
    const Pair<N> s(split, statistics + blockIdx.z * n.groups), m(split, means + blockIdx.z * n.groups);
    Channels<N> c;
    c.load(at.channel, split, gamma, beta, s);
    input_gradient<kSilu>(n, at, split, c, m, x, dy, residual, dx);
  }
}

}  // namespace

template <> size_t workspace_bytes(const GroupNormGrad& op, std::span<const Value> inputs, const Gpu&) {
  const size_t sums = group_sums(inputs[0], op.groups);
  return sums ? (sums + inputs[0].shape[0] * op.groups) * sizeof(float2) : 0;
}

template <> void run(const GroupNormGrad& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  const float2* statistics = data<float2>(c.in(3));
  for_groups(c.in(0).dtype, shape[-1], op.groups, [&]<class T>(T, auto lanes) {
    const Groups n(shape, op.groups, lanes);
    const dim3 grid = n.grid(shape[0]);
    const T *x = data<T>(c.in(0)), *dy = data<T>(c.in(4)), *residual = op.residual ? data<T>(c.in(residual_input(op))) : nullptr;
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
