// Around the network: the sinusoids of a timestep, noise, the loss and its gradient. Formulas in graph/ops.h.
#include <cmath>

#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kLossThreads = 1024;

// sin and cos of an f32 angle of at most a few thousand: π/2 in two parts (Cody and Waite) leaves |r| ≤ π/4 exact far beyond f32,
// and the series to r¹⁴ have an error below 1e-14. The library's reduction for any angle would need local memory.
struct Circle { float sine, cosine; };
__device__ __forceinline__ Circle circle(float angle) {
  const double quarters = rint(angle * 0.63661977236758134);
  const double r = fma(quarters, -6.123233995736766e-17, fma(quarters, -1.5707963267948966, static_cast<double>(angle))), r2 = r * r;
  double s = 1.0 / 6227020800, c = -1.0 / 87178291200;  // 1/13!, −1/14!
  s = fma(s, r2, -1.0 / 39916800), c = fma(c, r2, 1.0 / 479001600);
  s = fma(s, r2, 1.0 / 362880), c = fma(c, r2, -1.0 / 3628800);
  s = fma(s, r2, -1.0 / 5040), c = fma(c, r2, 1.0 / 40320);
  s = fma(s, r2, 1.0 / 120), c = fma(c, r2, -1.0 / 720);
  s = fma(s, r2, -1.0 / 6), c = fma(c, r2, 1.0 / 24);
  c = fma(c, r2, -0.5);
  const float sine = static_cast<float>(fma(r * r2, s, r)), cosine = static_cast<float>(fma(c, r2, 1.0));
  const int quadrant = static_cast<int>(quarters) & 3;
  const float a = quadrant % 2 ? cosine : sine, b = quadrant % 2 ? sine : cosine;
  return {quadrant >= 2 ? -a : a, quadrant == 1 || quadrant == 2 ? -b : b};
}

// y [B, dim] of t [B]. Every step rounds to f32, as PyTorch's does: at t = 999 the angle would differ by 1e-4 otherwise.
template <class T> __global__ void __launch_bounds__(kBlock)
    sinusoid(uint32_t samples, uint32_t dim, float log_period, float divisor, bool cos_first, const float* t, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t half = dim / 2, i = blockIdx.x * kBlock + threadIdx.x, b = i / half, k = i % half;
    if (b >= samples) return;
    const float exponent = log_period * static_cast<float>(k) / divisor;
    const Circle at = circle(t[b] * static_cast<float>(exp(static_cast<double>(exponent))));
    T* to = y + b * dim;
    to[k] = from_float<T>(cos_first ? at.cosine : at.sine);
    to[half + k] = from_float<T>(cos_first ? at.sine : at.cosine);
    if (k == 0 && dim % 2) to[dim - 1] = from_float<T>(0.0f);
  }
}

// y = c_0 · x + c_1 · noise, coefficients [B, 2] f32. A sample is `count` vectors; sample blockIdx.y.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    add_noise(uint32_t count, const float* x, const float* noise, const float* coefficients, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, b = blockIdx.y;
    if (i >= count) return;
    const int64_t first = (static_cast<int64_t>(b) * count + i) * N;
    const float signal = coefficients[2 * b], amount = coefficients[2 * b + 1];
    const Vector<float, N> a(x + first), e(noise + first);
    store_each<N>(y + first, [&](int k) { return signal * a[k] + amount * e[k]; });
  }
}

// losses [B] = mean over a sample of (prediction − target)²: one block a sample, each thread its own elements in order.
template <class T, int N> __global__ void __launch_bounds__(kLossThreads)
    mse_loss(uint32_t count, const T* prediction, const float* target, float* losses) {
  if constexpr (kComputes<T>) {
    __shared__ float scratch[32];
    const int64_t first = static_cast<int64_t>(blockIdx.x) * count * N;
    float sum = 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < count; i += kLossThreads) {
      const Vector<T, N> p(prediction + first + static_cast<int64_t>(i) * N);
      const Vector<float, N> t(target + first + static_cast<int64_t>(i) * N);
#pragma unroll
      for (int k = 0; k < N; k++) sum += (p[k] - t[k]) * (p[k] - t[k]);
    }
    sum = block_sum<kLossThreads>(sum, scratch);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum / (static_cast<float>(count) * N);
  }
}

template <class T, int N> __global__ void __launch_bounds__(kBlock)
    mse_loss_grad(uint32_t count, const T* prediction, const float* target, const float* weights, T* out) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x;
    if (i >= count) return;
    const int64_t first = (static_cast<int64_t>(blockIdx.y) * count + i) * N;
    const float scale = 2.0f * weights[blockIdx.y] / (static_cast<float>(count) * N);
    float p[N], t[N];
    load(prediction + first, p);
    load(target + first, t);
#pragma unroll
    for (int k = 0; k < N; k++) p[k] = scale * (p[k] - t[k]);
    store(out + first, p);
  }
}

int64_t sample_elements(const Tensor& t) { return t.shape.elements() / t.shape[0]; }

}  // namespace

template <> void run(const Sinusoid& op, Context& c) {
  const int64_t samples = c.in(0).shape.elements(), half = op.dim / 2;
  for_type(c.out(0).dtype, [&]<class T>(T) {
    launch_each("sinusoid", sinusoid<T>, {samples * half}, c.stream, samples, op.dim, -std::log(10000.0),
                static_cast<float>(half) - op.shift, op.cos_first, c.in(0).f32(), data<T>(c.out(0)));
  });
}

template <> void run(const AddNoise&, Context& c) {
  const int64_t size = sample_elements(c.out(0));
  for_vectors(c.out(0).dtype, size, [&]<class T>(T, auto n) {
    launch_each("add_noise", add_noise<T, n>, {size / n, c.out(0).shape[0]}, c.stream, size / n, c.in(0).f32(), c.in(1).f32(),
                c.in(2).f32(), data<T>(c.out(0)));
  });
}

template <> void run(const MseLoss&, Context& c) {
  const int64_t size = sample_elements(c.in(0));
  for_vectors(c.in(0).dtype, size, [&]<class T>(T, auto n) {
    launch("mse_loss", mse_loss<T, n>, c.in(0).shape[0], kLossThreads, 0, c.stream, size / n, data<T>(c.in(0)), c.in(1).f32(),
           c.out(0).f32());
  });
}

template <> void run(const MseLossGrad&, Context& c) {
  const int64_t size = sample_elements(c.out(0));
  for_vectors(c.out(0).dtype, size, [&]<class T>(T, auto n) {
    launch_each("mse_loss_grad", mse_loss_grad<T, n>, {size / n, c.out(0).shape[0]}, c.stream, size / n, data<T>(c.in(0)), c.in(1).f32(),
                c.in(2).f32(), data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
