// One step of AdamW over all adapters, with the global norm clipped first: formulas, order and rounding of cpu/optimizer.cc.
// The norm stays on the card: sums of squares per block in f64, their sum in order, then one update that reads it.
#include <cmath>

#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 256, kBlocks = 1024;

struct Clip {
  float norm;    // unscaled
  float factor;  // of each gradient
};
constexpr size_t kSums = 64;  // where the blocks' sums begin in the workspace, after Clip
static_assert(kSums + kBlocks * sizeof(double) <= kUpdateWorkspace);

struct Step {
  float keep, weight1, decay2, weight2, step_size, correction2, epsilon;
};

// Of all threads, to thread 0, halving.
__device__ __forceinline__ double block_sum(double x, double* scratch) {
  scratch[threadIdx.x] = x;
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
  }
  return scratch[0];
}

template <int N>
__global__ void __launch_bounds__(kThreads) sum_squares(int64_t count, const float* g, double* sums) {
  __shared__ double scratch[kThreads];
  double sum = 0;
  constexpr int64_t kStep = int64_t{kBlocks} * kThreads * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N; i < count; i += kStep) {
    float x[N];
    load(g + i, x);
#pragma unroll
    for (int k = 0; k < N; k++) sum = fma(static_cast<double>(x[k]), static_cast<double>(x[k]), sum);
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) clip_norm(double max_grad_norm, double loss_scale, const double* sums, Clip* clip) {
  __shared__ double scratch[kThreads];
  double sum = 0;
  for (int i = threadIdx.x; i < kBlocks; i += kThreads) sum += sums[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum) / loss_scale, factor = max_grad_norm > 0 ? fmin(1.0, max_grad_norm / (norm + 1e-6)) : 1.0;
  *clip = {static_cast<float>(norm), static_cast<float>(factor / loss_scale)};
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    adamw(int64_t count, Step s, const Clip* clip, float* weights, float* gradients, float* first, float* second) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const Clip c = *clip;
  if (i >= count || !isfinite(c.norm)) return;
  float w[N], g[N], m[N], v[N];
  load(weights + i, w);
  load(gradients + i, g);
  load(first + i, m);
  load(second + i, v);
#pragma unroll
  for (int k = 0; k < N; k++) {
    g[k] *= c.factor;
    m[k] += s.weight1 * (g[k] - m[k]);
    v[k] = v[k] * s.decay2 + s.weight2 * g[k] * g[k];
    w[k] = w[k] * s.keep - s.step_size * (m[k] / (sqrtf(v[k]) / s.correction2 + s.epsilon));
    g[k] = 0;
  }
  store(weights + i, w);
  store(gradients + i, g);
  store(first + i, m);
  store(second + i, v);
}

}  // namespace

void update(cudaStream_t stream, const AdamW& options, float* weights, float* gradients, float* first, float* second, int64_t count,
            void* workspace) {
  const double lr = options.learning_rate, step = static_cast<double>(options.step);
  const Step s{static_cast<float>(1 - lr * options.weight_decay), static_cast<float>(1 - options.beta1), static_cast<float>(options.beta2),
               static_cast<float>(1 - options.beta2), static_cast<float>(lr / (1 - std::pow(options.beta1, step))),
               static_cast<float>(std::sqrt(1 - std::pow(options.beta2, step))), static_cast<float>(options.epsilon)};
  Clip* clip = static_cast<Clip*>(workspace);
  double* sums = reinterpret_cast<double*>(static_cast<unsigned char*>(workspace) + kSums);

  uintptr_t addresses = 0;
  for (const float* p : {weights, gradients, first, second}) addresses |= reinterpret_cast<uintptr_t>(p);
  const bool vectors = addresses % 16 == 0 && count % kVector<float> == 0;
  const auto issue = [&](auto n) {
    launch("sum_squares", sum_squares<n>, kBlocks, kThreads, 0, stream, count, gradients, sums);
    launch("clip_norm", clip_norm, 1, kThreads, 0, stream, options.max_grad_norm, options.loss_scale, sums, clip);
    launch("adamw", adamw<n>, ceil_div<int64_t>(count, kThreads * n), kThreads, 0, stream, count, s, clip, weights, gradients, first,
           second);
  };
  if (vectors) issue(Count<kVector<float>>());
  else issue(Count<1>());
}

}  // namespace lorafuse::cuda
