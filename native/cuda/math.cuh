// The logistic function and the normal distribution. NaN stays NaN in every function of x built on them.
#pragma once
#include <cuda_runtime.h>

#include "../base/normal.h"

namespace lorafuse::cuda {

// 1/x for 1 ≤ x < ∞: the approximation and one step of Newton, which leaves half an ulp of error.
__device__ __forceinline__ float reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return fmaf(r, fmaf(-x, r, 1.0f), r);
}

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + expf(fminf(-x, 87.0f))); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_grad(float x) {
  const float s = sigmoid(x);
  return s + x * s * (1.0f - s);
}

constexpr float kQuick = 1.702f;
__device__ __forceinline__ float quick_gelu(float x) { return x * sigmoid(kQuick * x); }
__device__ __forceinline__ float quick_gelu_grad(float x) {
  const float s = sigmoid(kQuick * x);
  return s + kQuick * x * s * (1.0f - s);
}

// The standard normal distribution (base/normal.h): Φ(x), within 1e-7, and its density.
struct Normal { float cdf, density; };
__device__ __forceinline__ Normal normal(float x) {
  const float size = fabsf(x);
  const float e = expf(-0.5f * size * size);
  const float scaled = fminf(kTailScale * size, 1e30f), u = scaled * reciprocal(1.0f + scaled);
  const float tail = e * normal_tail(u);
  return {x < 0.0f ? tail : 1.0f - tail, kDensityAt0 * e};
}

__device__ __forceinline__ float gelu(float x) { return x * normal(x).cdf; }
__device__ __forceinline__ float gelu_grad(float x) {
  const Normal n = normal(x);
  return n.cdf + x * n.density;
}

// Gradients of a · gelu(b).
__device__ __forceinline__ void geglu_slopes(float a, float b, float dy, float& da, float& db) {
  const Normal n = normal(b);
  da = dy * (b * n.cdf);
  db = dy * a * (n.cdf + b * n.density);
}

}  // namespace lorafuse::cuda
