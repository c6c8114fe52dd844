// Integer arithmetic: add, sub, mul, mad, div, rem, min, max, abs, neg, sad, dp4a.
// PTX ISA 9.0, "Integer Arithmetic Instructions".
// Results wrap modulo 2^n; division by zero and INT_MIN / -1 are left open by the ISA.
#include <cstdlib>
#include <limits>

#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;
__extension__ using Wide = __int128;
// Holds every product of two of T, and a third summand: unsigned ones may need all 128 bits.
__extension__ template <class T> using Product = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;

template <class T> std::string suffix() { return text(std::is_signed_v<T> ? ".s" : ".u", sizeof(T) * 8); }

template <class T, class Exact> T wrapped(Exact x) { return T(Unsigned<T>(x)); }
template <class T> T clamped(Wide x) {
  return T(std::min<Wide>(std::max<Wide>(x, std::numeric_limits<T>::min()), std::numeric_limits<T>::max()));
}
template <class T> T high(Product<T> x) { return T(x >> sizeof(T) * 8); }

template <class T> void division() {
  const std::string t = suffix<T>();
  auto defined = [](T a, T b) {
    if (b == 0 || (std::is_signed_v<T> && a == std::numeric_limits<T>::min() && b == T(-1))) throw Unspecified();
  };
  row("div" + t, [=](T a, T b) { return defined(a, b), T(a / b); });
  row("rem" + t, [=](T a, T b) { return defined(a, b), T(a % b); });
}

template <class T> void arithmetic() {
  const std::string t = suffix<T>();
  row("add" + t, [](T a, T b) { return wrapped<T>(Wide(a) + b); });
  row("sub" + t, [](T a, T b) { return wrapped<T>(Wide(a) - b); });
  row("mul.lo" + t, [](T a, T b) { return wrapped<T>(Product<T>(a) * b); });
  row("mul.hi" + t, [](T a, T b) { return high<T>(Product<T>(a) * b); });
  row("mad.lo" + t, [](T a, T b, T c) { return wrapped<T>(Product<T>(a) * b + c); });
  row("mad.hi" + t, [](T a, T b, T c) { return wrapped<T>(Product<T>(high<T>(Product<T>(a) * b)) + c); });
  row("min" + t, [](T a, T b) { return a < b ? a : b; });
  row("max" + t, [](T a, T b) { return a < b ? b : a; });
  division<T>();
  if constexpr (std::is_signed_v<T>) {
    row("neg" + t, [](T a) { return wrapped<T>(-Wide(a)); });
    row("abs" + t, [](T a) { return wrapped<T>(a < 0 ? -Wide(a) : Wide(a)); });
  }
}

template <class T, class Result> void wide() {
  row("mul.wide" + suffix<T>(), [](T a, T b) { return Result(Result(a) * Result(b)); });
  row("mad.wide" + suffix<T>(), [](T a, T b, Result c) { return wrapped<Result>(Wide(a) * b + c); });
}

template <class T> void sum_of_differences() {
  row("sad" + suffix<T>(), [](T a, T b, T c) { return wrapped<T>(Wide(c) + (a < b ? Wide(b) - a : Wide(a) - b)); });
}

// Sums and products of 64 bits from words, by the carry flag.
void carries() {
  auto by_words = [](const std::string& low, const std::string& high) {
    return text("{ .reg .b32 %p, %q, %r, %s; mov.b64 {%p, %q}, %a; mov.b64 {%r, %s}, %b; ", low, " %p, %p, %r; ", high,
                " %q, %q, %s; mov.b64 %d, {%p, %q}; }");
  };
  row(by_words("add.cc.u32", "addc.u32"), [](uint64_t a, uint64_t b) { return a + b; });
  row(by_words("sub.cc.u32", "subc.u32"), [](uint64_t a, uint64_t b) { return a - b; });
  row("{ .reg .b32 %l; add.cc.s32 %l, %a, %b; addc.u32 %d, 0, 0; }",
      [](uint32_t a, uint32_t b) { return uint32_t((uint64_t(a) + b) >> 32); });
  row("{ .reg .b32 %l, %h; mad.lo.cc.u32 %l, %a, %b, %c; madc.hi.u32 %h, %a, %b, 0; mov.b64 %d, {%l, %h}; }",
      [](uint32_t a, uint32_t b, uint32_t c) { return uint64_t(a) * b + c; });
}

// The flag goes in and out of one instruction: chains of three.
void carry_chains() {
  row("{ .reg .b64 %p, %q; add.cc.s64 %p, %a, %b; addc.cc.s64 %q, %a, 0; addc.u64 %d, 0, 0; }", [](uint64_t a, uint64_t b) {
    const bool first = a + b < a;
    return uint64_t(first && a == ~uint64_t(0));
  });
  row("{ .reg .b32 %p, %q; add.cc.u32 %p, %a, %b; addc.cc.u32 %q, %a, %b; addc.u32 %d, %q, 0; }", [](uint32_t a, uint32_t b) {
    const uint64_t first = uint64_t(a) + b, second = uint64_t(a) + b + (first >> 32);
    return uint32_t(second + (second >> 32));
  });
  row("{ .reg .b32 %p, %q; sub.cc.u32 %p, %a, %b; subc.cc.u32 %q, %b, %a; subc.u32 %d, %q, 0; }", [](uint32_t a, uint32_t b) {
    const bool first = a < b, second = b < uint64_t(a) + first;
    return uint32_t(b - a - first - second);
  });
  row("{ .reg .b32 %p, %q; add.cc.u32 %p, %a, %b; madc.lo.cc.u32 %q, %a, %b, %c; addc.u32 %d, %q, 0; }",
      [](uint32_t a, uint32_t b, uint32_t c) {
        const uint64_t first = uint64_t(a) + b, second = uint64_t(a * b) + c + (first >> 32);
        return uint32_t(second + (second >> 32));
      });
  // Bits 32 to 95 of a 64 x 32-bit product and a 64-bit summand.
  row("{ .reg .b32 %l, %h, %m, %n, %p, %q, %r; mov.b64 {%l, %h}, %a; mov.b64 {%m, %n}, %c; mad.lo.cc.u32 %p, %l, %b, %m; "
      "madc.hi.cc.u32 %q, %l, %b, %n; madc.hi.u32 %r, %h, %b, 0; mad.lo.cc.u32 %q, %h, %b, %q; addc.u32 %r, %r, 0; mov.b64 %d, {%q, %r}; }",
      [](uint64_t a, uint32_t b, uint64_t c) { return uint64_t(((__extension__(unsigned __int128) a) * b + c) >> 32); });
}

// Two integers of 16 bits in one register.
template <class T> void pairs() {
  auto each = [](uint32_t a, uint32_t b, auto f) {
    return uint32_t(uint16_t(f(T(a), T(b)))) | uint32_t(uint16_t(f(T(a >> 16), T(b >> 16)))) << 16;
  };
  const std::string t = suffix<T>() + "x2";
  row("add" + t, [each](uint32_t a, uint32_t b) { return each(a, b, [](T x, T y) { return x + y; }); });
  row("min" + t, [each](uint32_t a, uint32_t b) { return each(a, b, [](T x, T y) { return std::min(x, y); }); });
  row("max" + t, [each](uint32_t a, uint32_t b) { return each(a, b, [](T x, T y) { return std::max(x, y); }); });
}

template <class T> T element(uint32_t word, int i) { return T(word >> i * sizeof(T) * 8); }

template <class A, class B, class Sum> void dot_products(const std::string& types) {
  row("dp4a" + types, [](uint32_t a, uint32_t b, Sum c) {
    Wide sum = c;
    for (int i = 0; i < 4; i++) sum += Wide(element<A>(a, i)) * element<B>(b, i);
    return wrapped<Sum>(sum);
  });
}

}  // namespace

SUITE(integers) {
  arithmetic<int16_t>();
  arithmetic<uint16_t>();
  arithmetic<int32_t>();
  arithmetic<uint32_t>();
  arithmetic<int64_t>();
  arithmetic<uint64_t>();
  wide<int16_t, int32_t>();
  wide<uint16_t, uint32_t>();
  wide<int32_t, int64_t>();
  wide<uint32_t, uint64_t>();
  carries();
  carry_chains();
  pairs<int16_t>();
  pairs<uint16_t>();
  sum_of_differences<int32_t>();
  sum_of_differences<uint32_t>();
  dot_products<int8_t, int8_t, int32_t>(".s32.s32");
  dot_products<uint8_t, uint8_t, uint32_t>(".u32.u32");
  dot_products<int8_t, uint8_t, int32_t>(".s32.u32");
  row("add.sat.s32", [](int32_t a, int32_t b) { return clamped<int32_t>(Wide(a) + b); });
  row("sub.sat.s32", [](int32_t a, int32_t b) { return clamped<int32_t>(Wide(a) - b); });
  row("mad.hi.sat.s32", [](int32_t a, int32_t b, int32_t c) { return clamped<int32_t>(Wide(high<int32_t>(Wide(a) * b)) + c); });
  row("mul24.lo.s32", [](int32_t a, int32_t b) { return wrapped<int32_t>(Wide(int32_t(a << 8) >> 8) * (int32_t(b << 8) >> 8)); });
  row("mul24.lo.u32", [](uint32_t a, uint32_t b) { return wrapped<uint32_t>(Wide(a & 0xffffff) * (b & 0xffffff)); });

  // Immediate operands stand for every lane, whatever their spelling.
  row("add.s32 %d, %a, -7", [](int32_t a) { return wrapped<int32_t>(Wide(a) - 7); });
  row("mad.lo.s32 %d, %a, 0x7fffffff, 12U", [](int32_t a) { return wrapped<int32_t>(Wide(a) * 0x7fffffff + 12); });
  row("add.s64 %d, %a, -9223372036854775808", [](int64_t a) { return int64_t(uint64_t(a) + (uint64_t(1) << 63)); });
  row("and.b32 %d, %a, 0b1011", [](uint32_t a) { return a & 11; });
  row("and.b32 %d, %a, 0777", [](uint32_t a) { return a & 511; });
  row("max.s16 %d, %a, -32768", [](int16_t a) { return a; });
  row("mul.wide.s32 %d, %a, -3", [](int32_t a) { return int64_t(a) * -3; });
}

}  // namespace ptxemu::test
