// Around the network: the sinusoids of a timestep, noise, the loss and its gradient. Formulas in graph/ops.h.
#include <cmath>

#include "loops.h"

namespace lorafuse::cpu {

template <> void run(const Sinusoid& op, Context& c) {
  const int64_t half = op.dim / 2;
  const float* t = c.in(0).f32();
  float* out = c.out(0).f32();
  // Every step rounds to f32, as PyTorch's does: at t = 999 the angle would differ by 1e-4 otherwise.
  const float log_period = static_cast<float>(-std::log(10000.0)), divisor = static_cast<float>(half) - op.shift;
  for (int64_t b = 0; b < c.in(0).shape.elements(); b++) {
    float* y = out + b * op.dim;
    float *cosines = op.cos_first ? y : y + half, *sines = op.cos_first ? y + half : y;
    for (int64_t i = 0; i < half; i++) {
      const float exponent = log_period * static_cast<float>(i) / divisor;
      const float angle = t[b] * static_cast<float>(std::exp(static_cast<double>(exponent)));
      cosines[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
    if (op.dim % 2) y[op.dim - 1] = 0;
  }
}

template <> void run(const AddNoise&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  const float *x = c.in(0).f32(), *noise = c.in(1).f32();
  for (int64_t b = 0; b < c.in(0).shape[0]; b++) {
    const float signal = c.in(2).f32()[2 * b], amount = c.in(2).f32()[2 * b + 1];
    float* y = c.out(0).f32();
    c.threads.for_ranges(size, kPiece, [=](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = b * size + begin; i < b * size + end; i++) y[i] = signal * x[i] + amount * noise[i];
    });
  }
}

template <> void run(const MseLoss&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  c.threads.for_each(c.in(0).shape[0], [&](int64_t b, int) {
    const float *prediction = c.in(0).f32() + b * size, *target = c.in(1).f32() + b * size;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) {
      const double d = prediction[i] - target[i];
      sum += d * d;
    }
    c.out(0).f32()[b] = static_cast<float>(sum / static_cast<double>(size));
  });
}

template <> void run(const MseLossGrad&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  const float *prediction = c.in(0).f32(), *target = c.in(1).f32(), *weights = c.in(2).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.in(0).shape[0], size, [=](int64_t b) {
    const float scale = static_cast<float>(2.0 * weights[b] / static_cast<double>(size));
#pragma omp simd
    for (int64_t i = b * size; i < (b + 1) * size; i++) out[i] = scale * (prediction[i] - target[i]);
  });
}

}  // namespace lorafuse::cpu
