// exp, the logistic function and the normal distribution without branches or calls, so that loops over them vectorise.
//   exp x = 2ⁿ · eʳ, n = round(x / ln 2), |r| ≤ ln 2 / 2 with ln 2 in two parts (Cody and Waite); eʳ = 1 + r + r²·Q(r), Q fitted here.
// -ffast-math would break the rounding below; NaN stays NaN.
#pragma once
#include "../base/floats.h"
#include "../base/normal.h"

namespace lorafuse::cpu {

// e^x within 2 ulp; 0 below −87, infinity above 88.73.
inline float exp_(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f, kRound = 12582912.0f;  // 1.5 · 2²³
  x = x < -87.3f ? -87.3f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * kLog2e + kRound;  // n in the low bits
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float q = 0.00138145406f;
  q = q * r + 0.00836874545f;
  q = q * r + 0.0416683890f;
  q = q * r + 0.166665211f;
  q = q * r + 0.499999940f;
  const float e = (q * r) * r + r + 1.0f;
  const float scale = float_of((bits_of(shifted) << 23) + (126u << 23));  // 2^(n−1): n = 128 still has a scale, n = −126 gives 0
  return (e + e) * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }
inline float silu(float x) { return x * sigmoid(x); }
inline float silu_grad(float x) {
  const float s = sigmoid(x);
  return s + x * s * (1.0f - s);
}

// The standard normal distribution (base/normal.h): Φ(x), within 1e-7, and its density.
struct Normal { float cdf, density; };
inline Normal normal(float x) {
  const float size = x < 0.0f ? -x : x;
  const float e = exp_(-0.5f * size * size);
  const float u = kTailScale * size / (1.0f + kTailScale * size);
  const float tail = e * normal_tail(u);
  return {x < 0.0f ? tail : 1.0f - tail, kDensityAt0 * e};
}

constexpr float kQuick = 1.702f;
inline float quick_gelu(float x) { return x * sigmoid(kQuick * x); }
inline float quick_gelu_grad(float x) {
  const float s = sigmoid(kQuick * x);
  return s + kQuick * x * s * (1.0f - s);
}

inline float gelu(float x) { return x * normal(x).cdf; }
inline float gelu_grad(float x) {
  const Normal n = normal(x);
  return n.cdf + x * n.density;
}

}  // namespace lorafuse::cpu
