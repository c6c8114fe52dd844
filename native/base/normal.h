// Fits of the standard normal distribution, the same on every backend:
//   Φ(x) = 1 − h(x) for x ≥ 0, h(−x) below; h(x) = e^(−x²/2) · P(u), u = p·x / (1 + p·x)
// after Abramowitz and Stegun 26.2.17; P and p fitted here. A small Φ(x) keeps its relative precision. erf(x/√2) = 2·Φ(x) − 1.
#pragma once

namespace lorafuse {

constexpr float kTailScale = 0.34f;          // p
constexpr float kDensityAt0 = 0.398942280f;  // 1 / √(2π)

#ifdef __CUDACC__
#define LORAFUSE_DEVICE __host__ __device__ __forceinline__
#else
#define LORAFUSE_DEVICE inline
#endif

// P(u)
LORAFUSE_DEVICE float normal_tail(float u) {
  float p = 0.0280664898f;
  p = p * u - 0.103536762f;
  p = p * u + 0.111177161f;
  p = p * u - 0.0108061098f;
  p = p * u + 0.0538590103f;
  p = p * u - 0.163795993f;
  p = p * u - 0.230831042f;
  p = p * u + 0.989227772f;
  p = p * u - 1.17335868f;
  return p * u + 0.5f;
}

}  // namespace lorafuse
