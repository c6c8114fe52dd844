// f32 as a GPU computes it: subnormals flushed by .ftz, NaN always 0x7fffffff (PTX ISA, "Floating Point Instructions").
#pragma once
#include <immintrin.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace ptxemu {

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
template <bool ftz> inline float flush_if(float x) { return ftz ? flush(x) : x; }
inline double flush(double x) { return x; }
inline float canonical(float x) { return x == x ? x : std::bit_cast<float>(0x7fffffffu); }
inline double canonical(double x) { return x; }
template <class T> inline T saturate(T x) { return x > T(0) ? (x < T(1) ? x : T(1)) : T(0); }  // NaN becomes +0

// minNum / maxNum with -0 < +0; .NaN: a NaN stays.
template <class T> inline T minimum(T a, T b, bool nan = false) {
  const T least = a < b || (a == b && std::signbit(a)) ? a : b;
  const T number = a != a ? b : b != b ? a : least;
  return nan && (a != a || b != b) ? std::bit_cast<float>(0x7fffffffu) : number;
}
template <class T> inline T maximum(T a, T b, bool nan = false) {
  const T most = a > b || (a == b && std::signbit(b)) ? a : b;
  const T number = a != a ? b : b != b ? a : most;
  return nan && (a != a || b != b) ? std::bit_cast<float>(0x7fffffffu) : number;
}

// Rounds as .rz, .rm or .rp says while it lives; .rn is the default state of the processor.
enum class Rounding : uint8_t { nearest, down, up, zero };
class RoundingScope {
 public:
  explicit RoundingScope(Rounding r) : old_(_mm_getcsr()) { _mm_setcsr((old_ & ~0x6000u) | uint32_t(r) << 13); }
  ~RoundingScope() { _mm_setcsr(old_); }

 private:
  uint32_t old_;
};

}  // namespace ptxemu
