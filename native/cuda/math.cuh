// The logistic function and the normal distribution, of the same fits as cpu/math.h. NaN stays NaN in every function of x built on them.
//   Φ(x) = 1 − h(x) for x ≥ 0, h(−x) below; h(x) = e^(−x²/2) · P(u), u = p·x / (1 + p·x): a small Φ(x) keeps its relative precision.
#pragma once
#include <cuda_runtime.h>

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

// Φ(x), within 1e-7, and the density of the standard normal distribution.
struct Normal { float cdf, density; };
__device__ __forceinline__ Normal normal(float x) {
  const float size = fabsf(x);
  const float e = expf(-0.5f * size * size);
  const float scaled = fminf(0.34f * size, 1e30f), u = scaled * reciprocal(1.0f + scaled);
  float p = 0.0280664898f;
  p = p * u - 0.103536762f;
  p = p * u + 0.111177161f;
  p = p * u - 0.0108061098f;
  p = p * u + 0.0538590103f;
  p = p * u - 0.163795993f;
  p = p * u - 0.230831042f;
  p = p * u + 0.989227772f;
  p = p * u - 1.17335868f;
  const float tail = e * (p * u + 0.5f);
  return {x < 0.0f ? tail : 1.0f - tail, 0.398942280f * e};
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
