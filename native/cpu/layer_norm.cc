// Normalisation of each row (arXiv:1607.06450) and its gradient.
//   x̂ = (x − mean)·rstd,  y = x̂·γ + β;  dx = rstd·(γ·dy − mean(γ·dy) − x̂·mean(γ·dy·x̂))   (torch:aten/src/ATen/native/layer_norm.cpp)
#include <cmath>
#include <vector>

#include "loops.h"
#include "vector.h"

namespace lorafuse::cpu {
namespace {

// x, y [C]; statistics: mean, rstd.
void layer_norm_row(int64_t channels, float eps, const float* x, const float* gamma, const float* beta, float* y, float* statistics) {
  const float size = static_cast<float>(channels);
  float sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < channels; i++) sum += x[i];
  const float shift = sum / size;
#pragma omp simd reduction(+ : rest, squares)
  for (int64_t i = 0; i < channels; i++) {
    const float d = x[i] - shift;
    rest += d;
    squares += d * d;
  }
  // Σ(x − shift) is what rounding of the first sum left over: it corrects the mean.
  const float correction = rest / size, mean = shift + correction;
  const float rstd = 1 / std::sqrt(std::fmax(0.0f, squares / size - correction * correction) + eps);
#pragma omp simd
  for (int64_t i = 0; i < channels; i++) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
  statistics[0] = mean;
  statistics[1] = rstd;
}

void layer_norm_grad_row(int64_t channels, const float* x, const float* gamma, const float* statistics, const float* dy, float* dx) {
  const float size = static_cast<float>(channels), mean = statistics[0], rstd = statistics[1];
  float sum = 0, products = 0;
#pragma omp simd reduction(+ : sum, products)
  for (int64_t i = 0; i < channels; i++) {
    const float g = dy[i] * gamma[i];
    sum += g;
    products += g * (x[i] - mean);
  }
  const float mean1 = sum / size, mean2 = products * rstd * rstd / size;
#pragma omp simd
  for (int64_t i = 0; i < channels; i++) dx[i] = rstd * (dy[i] * gamma[i] - mean1 - (x[i] - mean) * mean2);
}

std::vector<float> widened(const Tensor& t) {
  std::vector<float> out(t.shape.elements());
  widen_row(t, 0, t.shape.elements(), out.data());
  return out;
}

}  // namespace

template <> void run(const LayerNorm& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1];
  const std::vector<float> gamma = widened(c.in(1)), beta = widened(c.in(2));
  for_rows(c, c.in(0).shape.rows(), channels, [&](int64_t r) {
    layer_norm_row(channels, op.eps, c.in(0).f32() + r * channels, gamma.data(), beta.data(), c.out(0).f32() + r * channels,
                   c.out(1).f32() + r * 2);
  });
}

template <> void run(const LayerNormGrad& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1];
  const std::vector<float> gamma = widened(c.in(1));
  const Tensor* residual = c.in_or_null(residual_input(op));
  for_rows(c, c.in(0).shape.rows(), channels, [&](int64_t r) {
    float* dx = c.out(0).f32() + r * channels;
    layer_norm_grad_row(channels, c.in(0).f32() + r * channels, gamma.data(), c.in(2).f32() + r * 2, c.in(3).f32() + r * channels, dx);
    if (residual) add_row(residual->f32() + r * channels, channels, dx);
  });
}

}  // namespace lorafuse::cpu
