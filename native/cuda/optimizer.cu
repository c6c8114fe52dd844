// One step of AdamW over all adapters, with the global norm clipped first: formulas, order and rounding of cpu/optimizer.cc.
// Two launches: each block's sum of squares in f64, then the update, whose blocks each add up those sums in one order.
#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 256, kMostBlocks = std::extent_v<decltype(UpdateMemory::sums)>;

// Of all threads, to each of them, halving.
__device__ __forceinline__ double block_sum(double x, double* scratch) {
  scratch[threadIdx.x] = x;
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
  }
  __syncthreads();
  return scratch[0];
}

// The elements that a thread takes: N at a time, all threads of all blocks beside each other.
template <int N, class F>
__device__ __forceinline__ void for_each_vector(int64_t count, F f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N; i < count; i += step) f(i);
}

// Of this thread's share: 0, or NaN where one is not finite.
__device__ __forceinline__ double not_finite(const float* losses, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += 0 * static_cast<double>(losses[i]);
  return sum;
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    sum_squares(int64_t count, const float* g, const float* losses, int64_t latest_count, const float* latest, UpdateMemory* memory) {
  __shared__ double scratch[kThreads];
  double sum = 0;
  if (blockIdx.x == 0) sum = not_finite(losses, memory->options.losses) + not_finite(latest, latest_count);
  for_each_vector<N>(count, [&](int64_t i) {
    float x[N];
    load(g + i, x);
#pragma unroll
    for (int k = 0; k < N; k++) sum = fma(static_cast<double>(x[k]), static_cast<double>(x[k]), sum);
  });
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) memory->sums[blockIdx.x] = sum;
}

template <int N>
__global__ void __launch_bounds__(kThreads) adamw(Trained trained, const UpdateMemory* memory, float* norm_out) {
  __shared__ double scratch[kThreads];
  const UpdateMemory::Options s = memory->options;
  double sum = 0;
  for (int i = threadIdx.x; i < gridDim.x; i += kThreads) sum += memory->sums[i];
  const double norm = sqrt(block_sum(sum, scratch)) / s.loss_scale;
  const double factor = s.max_grad_norm > 0 ? fmin(1.0, s.max_grad_norm / (norm + 1e-6)) : 1.0;
  const float clip = static_cast<float>(factor / s.loss_scale);
  if (blockIdx.x == 0 && threadIdx.x == 0) *norm_out = static_cast<float>(norm);
  if (!isfinite(static_cast<float>(norm))) return;
  for_each_vector<N>(trained.count, [&](int64_t i) {
    float w[N], g[N], m[N], v[N];
    load(trained.weights + i, w);
    load(trained.gradients + i, g);
    load(trained.first_moment + i, m);
    load(trained.second_moment + i, v);
#pragma unroll
    for (int k = 0; k < N; k++) {
      g[k] *= clip;
      m[k] += s.weight1 * (g[k] - m[k]);
      v[k] = v[k] * s.decay2 + s.weight2 * g[k] * g[k];
      w[k] = w[k] * s.keep - s.step_size * (m[k] / (sqrtf(v[k]) / s.correction2 + s.epsilon));
      g[k] = 0;
    }
    store(trained.weights + i, w);
    store(trained.gradients + i, g);
    store(trained.first_moment + i, m);
    store(trained.second_moment + i, v);
  });
}

}  // namespace

UpdateMemory::Options update_options(const AdamW& options, int64_t losses) {
  const double lr = options.learning_rate, step = static_cast<double>(options.step);
  return {static_cast<float>(1 - lr * options.weight_decay),
          static_cast<float>(1 - options.beta1),
          static_cast<float>(options.beta2),
          static_cast<float>(1 - options.beta2),
          static_cast<float>(lr / (1 - std::pow(options.beta1, step))),
          static_cast<float>(std::sqrt(1 - std::pow(options.beta2, step))),
          static_cast<float>(options.epsilon),
          options.max_grad_norm,
          options.loss_scale,
          losses};
}

void update(cudaStream_t stream, const Trained& trained, float* norm, const float* losses, const Tensor& latest, UpdateMemory* memory) {
  uintptr_t addresses = 0;
  for (const float* p : {trained.weights, trained.gradients, trained.first_moment, trained.second_moment})
    addresses |= reinterpret_cast<uintptr_t>(p);
  const bool vectors = addresses % 16 == 0 && trained.count % kVector<float> == 0;
  const auto issue = [&](auto n) {
    const auto blocks = static_cast<int>(std::min<int64_t>(kMostBlocks, ceil_div<int64_t>(trained.count, kThreads * n)));
    launch("sum_squares", sum_squares<n>, blocks, kThreads, 0, stream, trained.count, trained.gradients, losses, latest.shape.elements(),
           data<const float>(latest), memory);
    launch("adamw", adamw<n>, blocks, kThreads, 0, stream, trained, memory, norm);
  };
  if (vectors) issue(Count<kVector<float>>());
  else issue(Count<1>());
}

}  // namespace lorafuse::cuda
