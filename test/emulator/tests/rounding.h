// IEEE 754 rounding from first principles: a value known exactly, or rounded to odd in double, goes to a shorter format.
//   y = q · round(x / q),  q = 2^max(exponent(x) - precision + 1, min_exponent - precision + 1)
// Rounding to odd keeps "inexact" in the last bit, so the second rounding is right where double has 2 bits more than the target
// (Boldo, Melquiond: "Emulation of FMA and correctly rounded sums").
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ptxemu::test {

enum class Round { nearest, zero, down, up };  // .rn .rz .rm .rp

struct Format {
  int precision, min_exponent, max_exponent;  // precision counts the leading one
};
inline constexpr Format f16_format{11, -14, 15}, bf16_format{8, -126, 127}, f32_format{24, -126, 127};

template <class To, class From> To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &value, sizeof out);
  return out;
}

inline double whole(double x, Round mode) {
  switch (mode) {
    case Round::zero: return std::trunc(x);
    case Round::down: return std::floor(x);
    case Round::up: return std::ceil(x);
    default: {
      const double below = std::floor(x), rest = x - below;
      const bool up = rest > 0.5 || (rest == 0.5 && std::fmod(below, 2) != 0);
      return std::copysign(up ? below + 1 : below, x);
    }
  }
}

inline double round_to(double x, Format f, Round mode = Round::nearest) {
  if (!std::isfinite(x) || x == 0) return x;
  const int exponent = std::max(std::ilogb(x), f.min_exponent) - f.precision + 1;
  const double y = std::ldexp(std::copysign(whole(std::ldexp(x, -exponent), mode), x), exponent);
  const double largest = std::ldexp(2 - std::ldexp(1, 1 - f.precision), f.max_exponent);
  if (std::fabs(y) <= largest) return y;
  const bool infinite = mode == Round::nearest || mode == (x > 0 ? Round::up : Round::down);
  return std::copysign(infinite ? HUGE_VAL : largest, x);
}

// x, unless it is inexact (the truth lies in the direction of `error`) and even: then its odd neighbour on that side.
inline double to_odd(double x, double error) {
  if (!std::isfinite(x) || error == 0 || std::isnan(error) || (bits_as<uint64_t>(x) & 1)) return x;
  return std::nextafter(x, error > 0 ? HUGE_VAL : -HUGE_VAL);
}

inline double sum_to_odd(double a, double b, Round mode = Round::nearest) {
  const double s = a + b;
  if (s == 0) return std::signbit(a) == std::signbit(b) ? a : mode == Round::down ? -0.0 : 0.0;
  const double b_part = s - a;
  return to_odd(s, (a - (s - b_part)) + (b - b_part));
}
inline double quotient_to_odd(double a, double b) {
  const double q = a / b;
  if (!std::isfinite(q) || !std::isfinite(b)) return q;
  return to_odd(q, std::fma(-q, b, a) * (b < 0 ? -1 : 1));
}
inline double root_to_odd(double a) {
  const double q = std::sqrt(a);
  return std::isfinite(q) ? to_odd(q, std::fma(-q, q, a)) : q;
}

inline float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }  // .ftz
inline double saturate(double x) { return x > 0 ? std::fmin(x, 1) : 0; }                                 // .sat: NaN gives +0

// A 16-bit float by its bits.
template <bool brain> struct Half {
  uint16_t bits = 0;
  static constexpr Format format = brain ? bf16_format : f16_format;
  static constexpr int mantissa = format.precision - 1, exponent_max = brain ? 255 : 31;

  static Half round(double x, Round mode = Round::nearest) {
    if (std::isnan(x)) return {0x7fff};
    const double y = round_to(x, format, mode);
    const uint16_t sign = std::signbit(y) ? 0x8000 : 0;
    if (std::isinf(y)) return {uint16_t(sign | exponent_max << mantissa)};
    const int exponent = y == 0 ? format.min_exponent : std::max(std::ilogb(y), format.min_exponent);
    const int steps = int(std::ldexp(std::fabs(y), mantissa - exponent));  // 1.m as an integer; below 1 << mantissa if subnormal
    return {uint16_t(sign | (steps + ((exponent - format.min_exponent) << mantissa)))};
  }
  operator double() const {
    const int exponent = bits >> mantissa & exponent_max, fraction = bits & ((1 << mantissa) - 1);
    double x = exponent ? std::ldexp(fraction + (1 << mantissa), exponent + format.min_exponent - 1 - mantissa)
                        : std::ldexp(fraction, format.min_exponent - mantissa);
    if (exponent == exponent_max) x = fraction ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL;
    return bits & 0x8000 ? -x : x;
  }
};
using F16 = Half<false>;
using BF16 = Half<true>;

template <class T> struct Two {
  T low, high;  // bits 0…15, 16…31
};
using F16x2 = Two<F16>;
using BF16x2 = Two<BF16>;

}  // namespace ptxemu::test
