// How tensor cores sum: the products of a group and the sum so far are exact, aligned to the largest of them, bits below 2^-24 of it are
// cut off, and so is the result to f32 (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores, PeerJ CS 2021).
#pragma once
#include <algorithm>

#include "float.h"

namespace ptxemu {

inline float sum_truncated(const float* a, const float* b, int stride, int n, float c) {
  float p[8], largest = std::fabs(c);
  for (int k = 0; k < n; k++) p[k] = a[k] * b[k * stride], largest = std::max(largest, std::fabs(p[k]));
  bool finite = std::isfinite(c);
  for (int k = 0; k < n; k++) finite &= std::isfinite(p[k]);
  if (!finite || largest == 0) {
    float s = c;
    for (int k = 0; k < n; k++) s += p[k];
    return canonical(s);
  }
  const double unit = std::ldexp(1.0, std::max(std::ilogb(largest) - 24, -149));
  double s = std::trunc(double(c) / unit);
  for (int k = 0; k < n; k++) s += std::trunc(double(p[k]) / unit);
  s *= unit;
  const float f = float(s);
  return std::isfinite(f) && std::fabs(double(f)) > std::fabs(s) ? std::nextafter(f, 0.0f) : f;
}

// The same for 8 columns: d[j] = c[j] + sum of a[k] b[k][j]. As integers of at most 24 + 5 bits; what is tiny or not finite goes the way
// above.
inline void sum_truncated_8(const float* a, const float (*b)[8], int n, const float* c, float* d) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000), low = _mm256_set1_epi32(24 << 23);
  const __m256 sum = _mm256_loadu_ps(c);
  __m256 p[8];
  __m256i largest = _mm256_and_si256(_mm256_castps_si256(sum), exponent);
  for (int k = 0; k < n; k++) {
    p[k] = _mm256_mul_ps(_mm256_set1_ps(a[k]), _mm256_loadu_ps(b[k]));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(p[k]), exponent));
  }
  const __m256i odd = _mm256_or_si256(_mm256_cmpeq_epi32(largest, exponent), _mm256_cmpgt_epi32(low, largest));
  if (!_mm256_testz_si256(odd, odd)) {
    for (int j = 0; j < 8; j++) d[j] = sum_truncated(a, &b[0][j], 8, n, c[j]);
    return;
  }
  // Exponent field E: the unit is 2^(E - 127 - 24), its inverse has the field 127 + 24 - (E - 127).
  const __m256 inverse = _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32((127 + 24 + 127) << 23), largest));
  const __m256 unit =
      _mm256_castsi256_ps(_mm256_sub_epi32(largest, _mm256_set1_epi32(23 << 23)));  // 2^(E - 127 - 23): twice the unit stays normal
  __m256i s = _mm256_cvttps_epi32(_mm256_mul_ps(sum, inverse));
  for (int k = 0; k < n; k++) s = _mm256_add_epi32(s, _mm256_cvttps_epi32(_mm256_mul_ps(p[k], inverse)));
  // 24 bits of the magnitude stay, then the conversion is exact.
  const __m256i sign = _mm256_srai_epi32(s, 31);
  __m256i m = _mm256_abs_epi32(s);
  for (int bit = 28; bit >= 24; bit--) {
    const __m256i longer = _mm256_cmpgt_epi32(m, _mm256_set1_epi32((1 << bit) - 1));
    m = _mm256_andnot_si256(_mm256_and_si256(longer, _mm256_set1_epi32((1 << (bit - 23)) - 1)), m);
  }
  const __m256 half = _mm256_set1_ps(0.5f);
  const __m256 r = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(m), half), unit);
  _mm256_storeu_ps(d, _mm256_or_ps(r, _mm256_and_ps(_mm256_castsi256_ps(sign), _mm256_set1_ps(-0.0f))));
}

}  // namespace ptxemu
