// f16 and bf16 in registers: one value in the low half of a u32, or two. Conversions of 32 lanes (F16C; bf16 = the upper half of an f32).
#pragma once
#include <immintrin.h>

#include "float.h"
#include "lanes.h"

namespace ptxemu {

// Half `part` (0 low, 1 high) of 32 registers to f32.
template <bool bf16> inline void widen_half(const uint32_t* from, int part, float* to) {
  if constexpr (bf16) {
    for (int i = 0; i < 32; i++) to[i] = std::bit_cast<float>(part ? from[i] & 0xffff0000u : from[i] << 16);
  } else {
    for (int i = 0; i < 32; i += 8) {
      __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
      v = part ? _mm256_srli_epi32(v, 16) : _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
      const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0xd8);
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm256_castsi256_si128(packed)));
    }
  }
}

inline uint32_t bf16_of(float x) {  // to nearest even
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
}
inline uint32_t bf16_towards_zero(float x) { return x == x ? std::bit_cast<uint32_t>(x) >> 16 : 0x7fff; }
inline float float_of_bf16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }
inline float float_of_f16(uint32_t bits) { return _cvtsh_ss(uint16_t(bits)); }
inline uint32_t f16_of(float x) { return x == x ? uint16_t(_cvtss_sh(x, 0)) : 0x7fffu; }
inline uint32_t f16_towards_zero(float x) { return x == x ? uint16_t(_cvtss_sh(x, 3)) : 0x7fffu; }
inline uint32_t f16_downwards(float x) { return x == x ? uint16_t(_cvtss_sh(x, 1)) : 0x7fffu; }
inline uint32_t f16_upwards(float x) { return x == x ? uint16_t(_cvtss_sh(x, 2)) : 0x7fffu; }
inline uint32_t bf16_downwards(float x) { return bf16_towards_zero(x) + (x < 0 && std::bit_cast<uint32_t>(x) & 0xffff); }
inline uint32_t bf16_upwards(float x) { return bf16_towards_zero(x) + (x > 0 && std::bit_cast<uint32_t>(x) & 0xffff); }

// To nearest even; NaN becomes 0x7fff. The upper halves are 0.
template <bool bf16> inline void narrow_half(const float* from, uint32_t* to) {
  if constexpr (bf16) {
    for (int i = 0; i < 32; i++) to[i] = bf16_of(from[i]);
  } else {
    for (int i = 0; i < 32; i += 8) {
      const __m256 v = _mm256_loadu_ps(from + i);
      const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
      const __m256i h = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(v, 0));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_blendv_epi8(h, _mm256_set1_epi32(0x7fff), _mm256_castps_si256(nan)));
    }
  }
}

// a * b + c rounded to odd in f32, so that rounding once more to 11 or 8 bits gives what one rounding would (Boldo, Melquiond 2008).
inline float fma_to_odd(float a, float b, float c) {
  const double p = double(a) * double(b), z = double(c), s = p + z;  // the product is exact
  const double bb = s - p, e = (p - (s - bb)) + (z - bb);            // TwoSum: s + e is exact
  const uint64_t bits = std::bit_cast<uint64_t>(s);
  const bool step = e != 0 && !(bits & 1) && s - s == 0;
  const double odd = std::bit_cast<double>(step ? bits + ((e > 0) == (s > 0) ? 1 : -1) : bits);
  const float f = float(odd);
  const uint32_t narrow = std::bit_cast<uint32_t>(f);
  const double back = double(f);
  const bool again = back != odd && !(narrow & 1) && f - f == 0 && odd == odd;
  return std::bit_cast<float>(again ? narrow + ((odd > back) == (f > 0 || (f == 0 && odd > 0)) ? 1 : -1) : narrow);
}

// f64 or an integer to f32, rounded to odd for the same reason.
template <class T> inline float float_to_odd(T x) {
  const float f = float(x);
  if (!(f - f == 0)) return std::isfinite(double(x)) ? std::copysign(std::bit_cast<float>(0x7f7fffffu), f) : f;  // the largest is odd
  const auto back = [&] {
    if constexpr (std::is_same_v<T, double>) return double(f);
    else return static_cast<__int128>(f);
  }();
  if (back == x) return f;
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if (bits & 1) return f;
  const bool away = x > 0 ? x > back : x < back;
  return std::bit_cast<float>(bits + (away ? 1 : -1));
}

}  // namespace ptxemu
