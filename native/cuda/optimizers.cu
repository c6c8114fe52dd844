// One launch for each block's sum of squares in f64, then one for each group of parameters, whose blocks all add up those sums in one
// order.
#include "optimizers.h"

#include <algorithm>
#include <cmath>

#include "runtime.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 256, kMostBlocks = std::extent_v<decltype(UpdateMemory::sums)>;

// ---- the rules: one specialisation for each optimizer, a missing one does not compile ----
//   kState           how many f32 arrays it keeps
//   numbers(…)       what one update of a group multiplies by, worked out on the host
//   move(…)          one parameter, its gradient and its state
template <class Kind> struct Rule;

template <> struct Rule<AdamW> {
  static constexpr int kState = 2;
  enum { keep, weight1, decay2, weight2, step_size, correction2, epsilon };

  static void numbers(const AdamW& optimizer, const ParameterGroup& group, int64_t updates, float* n) {
    const double lr = group.learning_rate, step = static_cast<double>(updates);
    n[keep] = static_cast<float>(1 - lr * group.weight_decay);
    n[weight1] = static_cast<float>(1 - optimizer.beta1);
    n[decay2] = static_cast<float>(optimizer.beta2);
    n[weight2] = static_cast<float>(1 - optimizer.beta2);
    n[step_size] = static_cast<float>(lr / (1 - std::pow(optimizer.beta1, step)));
    n[correction2] = static_cast<float>(std::sqrt(1 - std::pow(optimizer.beta2, step)));
    n[epsilon] = static_cast<float>(optimizer.epsilon);
  }
  static __device__ __forceinline__ void move(float& w, float g, float (&state)[kState], const float* n) {
    float &m = state[0], &v = state[1];
    m += n[weight1] * (g - m);
    v = v * n[decay2] + n[weight2] * g * g;
    w = w * n[keep] - n[step_size] * (m / (sqrtf(v) / n[correction2] + n[epsilon]));
  }
};

// Each thread's sum, added up over the block by halves; every thread gets it.
__device__ __forceinline__ double block_sum(double x, double* scratch) {
  scratch[threadIdx.x] = x;
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
  }
  __syncthreads();
  return scratch[0];
}

// Calls f with this thread's share of the elements, N at a time, neighbouring threads beside each other.
template <int N, class F> __device__ __forceinline__ void for_each_vector(int64_t count, F f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N; i < count; i += step) f(i);
}

// 0, or NaN where one of this thread's share is not finite.
__device__ __forceinline__ double not_finite(const float* losses, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += 0 * static_cast<double>(losses[i]);
  return sum;
}

template <int N> __global__ void __launch_bounds__(kThreads)
    sum_squares(int64_t count, const float* g, const float* losses, int64_t latest_count, const float* latest, UpdateMemory* memory) {
  __shared__ double scratch[kThreads];
  double sum = 0;
  if (blockIdx.x == 0) sum = not_finite(losses, memory->numbers.losses) + not_finite(latest, latest_count);
  for_each_vector<N>(count, [&](int64_t i) {
    float x[N];
    load(g + i, x);
#pragma unroll
    for (int k = 0; k < N; k++) sum = fma(static_cast<double>(x[k]), static_cast<double>(x[k]), sum);
  });
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) memory->sums[blockIdx.x] = sum;
}

// A group's share of all arrays.
template <int kState> struct Arrays {
  float *weights, *gradients, *state[kState];
  int64_t count;
};

template <class R, int N> __global__ void __launch_bounds__(kThreads)
    move_parameters(Arrays<R::kState> a, int group, int sums, const UpdateMemory* memory, float* norm_out) {
  __shared__ double scratch[kThreads];
  const UpdateMemory::Numbers& u = memory->numbers;
  double sum = 0;
  for (int i = threadIdx.x; i < sums; i += kThreads) sum += memory->sums[i];
  const double norm = sqrt(block_sum(sum, scratch)) / u.loss_scale;
  const double clip = u.max_grad_norm > 0 ? fmin(1.0, u.max_grad_norm / (norm + 1e-6)) : 1.0;
  const float factor = static_cast<float>(clip / u.loss_scale);
  if (blockIdx.x == 0 && threadIdx.x == 0) *norm_out = static_cast<float>(norm);
  if (!isfinite(static_cast<float>(norm))) return;
  float numbers[kMostNumbers];
#pragma unroll
  for (int i = 0; i < kMostNumbers; i++) numbers[i] = u.of_group[group][i];
  for_each_vector<N>(a.count, [&](int64_t i) {
    float w[N], g[N], s[R::kState][N];
    load(a.weights + i, w);
    load(a.gradients + i, g);
#pragma unroll
    for (int j = 0; j < R::kState; j++) load(a.state[j] + i, s[j]);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float state[R::kState];
#pragma unroll
      for (int j = 0; j < R::kState; j++) state[j] = s[j][k];
      R::move(w[k], g[k] * factor, state, numbers);
#pragma unroll
      for (int j = 0; j < R::kState; j++) s[j][k] = state[j];
      g[k] = 0;
    }
    store(a.weights + i, w);
    store(a.gradients + i, g);
#pragma unroll
    for (int j = 0; j < R::kState; j++) store(a.state[j] + i, s[j]);
  });
}

// Calls f(Count<N>) with the elements that a thread takes at once.
template <class F> void with_width(std::initializer_list<const float*> arrays, int64_t count, F f) {
  uintptr_t addresses = 0;
  for (const float* p : arrays) addresses |= reinterpret_cast<uintptr_t>(p);
  if (addresses % 16 == 0 && count % kVector<float> == 0) f(Count<kVector<float>>());
  else f(Count<1>());
}

int blocks_for(int64_t count, int width) {
  return static_cast<int>(std::min<int64_t>(kMostBlocks, ceil_div<int64_t>(count, kThreads * width)));
}

}  // namespace

UpdateMemory::Numbers update_numbers(const Optimizer& optimizer, const Update& update, int64_t losses) {
  UpdateMemory::Numbers numbers{.max_grad_norm = update.max_grad_norm, .loss_scale = update.loss_scale, .losses = losses, .of_group = {}};
  for (size_t i = 0; i < update.groups.size(); i++)
    std::visit([&]<class Kind>(const Kind& kind) { Rule<Kind>::numbers(kind, update.groups[i], update.step, numbers.of_group[i]); },
               optimizer);
  return numbers;
}

void update(cudaStream_t stream, const Optimizer& optimizer, const Trained& trained, float* norm, const float* losses, const Tensor& latest,
            UpdateMemory* memory) {
  int sums = 0;
  with_width({trained.gradients}, trained.count(), [&](auto n) {
    sums = blocks_for(trained.count(), n);
    launch("sum_squares", sum_squares<n>, sums, kThreads, 0, stream, trained.count(), trained.gradients, losses, latest.shape.elements(),
           data<const float>(latest), memory);
  });
  int64_t begin = 0;
  for (size_t i = 0; i < trained.group_ends.size(); begin = trained.group_ends[i++]) {
    std::visit(
        [&]<class Kind>(const Kind&) {
          using R = Rule<Kind>;
          if (trained.group_ends[i] == begin) return;  // a group without parameters
          Arrays<R::kState> a{trained.weights + begin, trained.gradients + begin, {}, trained.group_ends[i] - begin};
          for (int j = 0; j < R::kState; j++) a.state[j] = static_cast<float*>(trained.state[j]) + begin;
          with_width({a.weights, a.gradients, a.state[0], a.state[R::kState - 1]}, a.count, [&](auto n) {
            launch(Kind::name, move_parameters<R, n>, blocks_for(a.count, n), kThreads, 0, stream, a, static_cast<int>(i), sums, memory,
                   norm);
          });
        },
        optimizer);
  }
}

}  // namespace lorafuse::cuda
