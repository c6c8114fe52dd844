// Floats of 16 bits: widened exactly, narrowed to the nearest, ties to even; and of 8, which only files have.
#pragma once
#include <cstdint>
#include <cstring>

#include "tensor.h"

namespace lorafuse {

struct Half { uint16_t bits; };    // IEEE binary16
struct Bfloat { uint16_t bits; };  // the upper half of a float
struct E4m3 { uint8_t bits; };     // F8_E4M3: no infinities, and all ones alone are no number
struct E5m2 { uint8_t bits; };     // F8_E5M2: the upper half of an f16

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float widen(float x) { return x; }
inline float widen(Bfloat x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Half x) {
  // Shifted into place, an f16 is its value · 2^−112, subnormals included; infinities and NaNs need their exponent set.
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
  const uint32_t bits = bits_of(float_of(magnitude) * 0x1p112f);
  return float_of((magnitude >= 0x0f800000u ? bits | 0x7f800000u : bits) | sign);
}

inline float widen(E5m2 x) { return widen(Half{static_cast<uint16_t>(x.bits << 8)}); }
inline float widen(E4m3 x) {
  // Shifted into place, its value · 2^−8 in f16, subnormals included.
  const uint16_t magnitude = x.bits & 0x7f, sign = x.bits & 0x80;
  if (magnitude == 0x7f) return widen(Half{static_cast<uint16_t>(sign << 8 | 0x7e00)});
  return widen(Half{static_cast<uint16_t>(sign << 8 | magnitude << 7)}) * 0x1p8f;
}

inline Bfloat to_bfloat(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline Half to_half(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
  uint32_t out;
  if (magnitude >= 0x47800000) out = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;                 // NaN; 65536 and more: infinity
  else if (magnitude < 0x38800000) out = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);  // below 2^−14: the addition rounds
  else out = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  return {static_cast<uint16_t>(sign | out)};
}

template <class To> To narrow(float x);
template <> inline float narrow(float x) { return x; }
template <> inline Half narrow(float x) { return to_half(x); }
template <> inline Bfloat narrow(float x) { return to_bfloat(x); }

// Calls f with a float, Half or Bfloat, as dtype says: for its type.
template <class F> decltype(auto) with_float(DType dtype, F&& f) {
  if (dtype == DType::f16) return f(Half{});
  if (dtype == DType::bf16) return f(Bfloat{});
  return f(0.0f);
}

}  // namespace lorafuse
