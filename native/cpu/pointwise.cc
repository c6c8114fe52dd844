// Element-wise ops and sums over positions: formulas in graph/ops.h and math.h.
//   (torch:aten/src/ATen/native/cpu/Activation.cpp; diffusers:models/activations.py GEGLU)
#include "loops.h"
#include "math.h"

namespace lorafuse::cpu {

template <> void run(const Activation& op, Context& c) {
  const float* x = c.in(0).f32();
  switch (op.function) {
    case Function::silu: return for_elements(c, [x](int64_t i) { return silu(x[i]); });
    case Function::gelu: return for_elements(c, [x](int64_t i) { return gelu(x[i]); });
    case Function::quick_gelu: return for_elements(c, [x](int64_t i) { return quick_gelu(x[i]); });
  }
}

template <> void run(const ActivationGrad& op, Context& c) {
  const float *x = c.in(0).f32(), *dy = c.in(1).f32();
  switch (op.function) {
    case Function::silu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * silu_grad(x[i]); });
    case Function::gelu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * gelu_grad(x[i]); });
    case Function::quick_gelu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * quick_gelu_grad(x[i]); });
  }
}

template <> void run(const Geglu&, Context& c) {
  const int64_t width = c.out(0).shape[-1];
  const float* x = c.in(0).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), width, [=](int64_t r) {
    const float *a = x + r * 2 * width, *b = a + width;
    float* y = out + r * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) y[i] = a[i] * gelu(b[i]);
  });
}

template <> void run(const GegluGrad&, Context& c) {
  const int64_t width = c.in(1).shape[-1];
  const float *x = c.in(0).f32(), *gradient = c.in(1).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.in(1).shape.rows(), width, [=](int64_t r) {
    const float *a = x + r * 2 * width, *b = a + width, *dy = gradient + r * width;
    float *da = out + r * 2 * width, *db = da + width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      const Normal n = normal(b[i]);
      da[i] = dy[i] * (b[i] * n.cdf);
      db[i] = dy[i] * a[i] * (n.cdf + b[i] * n.density);
    }
  });
}

template <> void run(const Add&, Context& c) {
  const float *a = c.in(0).f32(), *b = c.in(1).f32();
  for_elements(c, [a, b](int64_t i) { return a[i] + b[i]; });
}

template <> void run(const AddPerSample&, Context& c) {
  const Shape& shape = c.in(0).shape;
  const int64_t channels = shape[-1], positions = shape.rows() / shape[0];
  const float *x = c.in(0).f32(), *embedding = c.in(1).f32();
  float* y = c.out(0).f32();
  for_rows(c, shape.rows(), channels, [=](int64_t r) {
    const float* e = embedding + r / positions * channels;
#pragma omp simd
    for (int64_t i = 0; i < channels; i++) y[r * channels + i] = x[r * channels + i] + e[i];
  });
}

template <> void run(const SumPositions&, Context& c) {
  constexpr int64_t kStrip = 32, kBlock = 32;  // channels of a job; rows that are summed in f32
  const Shape& shape = c.in(0).shape;
  const int64_t channels = shape[-1], positions = shape.rows() / shape[0], strips = (channels + kStrip - 1) / kStrip;
  c.threads.for_each(shape[0] * strips, [&](int64_t job, int) {
    const int64_t first = job % strips * kStrip, count = std::min(kStrip, channels - first);
    const float* x = c.in(0).f32() + job / strips * positions * channels + first;
    double total[kStrip] = {};
    for (int64_t r = 0; r < positions;) {
      float sum[kStrip] = {};
      for (const int64_t end = std::min(positions, r + kBlock); r < end; r++) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] += x[r * channels + i];
      }
      for (int64_t i = 0; i < count; i++) total[i] += sum[i];
    }
    float* y = c.out(0).f32() + job / strips * channels + first;
    for (int64_t i = 0; i < count; i++) y[i] = static_cast<float>(total[i]);
  });
}

}  // namespace lorafuse::cpu
