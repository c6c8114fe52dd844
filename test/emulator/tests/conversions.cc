// cvt in every combination of types, rounding and saturation that a kernel can reach. PTX ISA 9.0, "cvt".
// Integer to integer: the low bits, or with .sat the nearest value of the target. Float to integer: rounded by .rni .rzi .rmi .rpi, then
// always clamped to the target; NaN gives 0, or the highest bit alone where the source is f64 or the target has 64 bits.
#include <limits>

#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

template <class T> std::string name() {
  if constexpr (std::is_same_v<T, float>) return ".f32";
  else if constexpr (std::is_same_v<T, double>) return ".f64";
  else if constexpr (std::is_same_v<T, F16>) return ".f16";
  else if constexpr (std::is_same_v<T, BF16>) return ".bf16";
  else return text(std::is_signed_v<T> ? ".s" : ".u", sizeof(T) * 8);
}

struct Mode {
  const char* name;
  Round round;
};
constexpr Mode integer_modes[] = {{".rni", Round::nearest}, {".rzi", Round::zero}, {".rmi", Round::down}, {".rpi", Round::up}};
constexpr Mode float_modes[] = {{".rn", Round::nearest}, {".rz", Round::zero}, {".rm", Round::down}, {".rp", Round::up}};

template <class... T> struct Types {};
using Integers = Types<int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>;
using WideIntegers = Types<int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>;

template <class... T, class F> void for_each(Types<T...>, F f) { (f(T()), ...); }

void integers_to_integers() {
  for_each(Integers(), [](auto to) {
    for_each(Integers(), [to](auto from) {
      using D = decltype(to);
      using S = decltype(from);
      row("cvt" + name<D>() + name<S>(), [](S a) { return D(a); });
      // ptxas takes .sat only where a value can lie outside.
      using Limit = std::numeric_limits<D>;
      using SourceLimit = std::numeric_limits<S>;
      if (std::cmp_greater(SourceLimit::max(), Limit::max()) || std::cmp_less(SourceLimit::min(), Limit::min()))
        row("cvt.sat" + name<D>() + name<S>(), [](S a) {
          return std::cmp_greater(a, Limit::max()) ? Limit::max() : std::cmp_less(a, Limit::min()) ? Limit::min() : D(a);
        });
    });
  });
}

template <class D> D clamped(double x, bool from_double) {
  if (std::isnan(x)) return from_double || sizeof(D) == 8 ? D(uint64_t(1) << (sizeof(D) * 8 - 1)) : D(0);
  // As doubles: the limits of 64 bits are not exact, but what lies beyond them is.
  if (x >= std::ldexp(1, sizeof(D) * 8 - std::is_signed_v<D>)) return std::numeric_limits<D>::max();
  if (x < double(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  return D(x);
}
double whole_or_special(double x, Round mode) { return std::isfinite(x) ? std::copysign(whole(x, mode), x) : x; }

template <class S> void float_to_integers() {
  for (const Mode& mode : integer_modes)
    for_each(WideIntegers(), [&](auto to) {
      using D = decltype(to);
      row(text("cvt", mode.name, name<D>(), name<S>()),
          [r = mode.round](S a) { return clamped<D>(whole_or_special(double(a), r), std::is_same_v<S, double>); });
      if constexpr (std::is_same_v<S, float>)
        row(text("cvt", mode.name, ".ftz", name<D>(), name<S>()),
            [r = mode.round](S a) { return clamped<D>(whole_or_special(flush(a), r), false); });
    });
}

// An integer of 64 bits is not exact in double: its upper and lower half are, and their sum is rounded to odd.
template <class S> double exact(S a) {
  if constexpr (sizeof(S) < 8) return double(a);
  else return sum_to_odd(std::ldexp(double(std::conditional_t<std::is_signed_v<S>, int32_t, uint32_t>(a >> 32)), 32), double(uint32_t(a)));
}

void integers_to_floats() {
  for_each(Integers(), [](auto from) {
    using S = decltype(from);
    for (const Mode& mode : float_modes) {
      const std::string m = mode.name;
      row("cvt" + m + ".f32" + name<S>(), [r = mode.round](S a) { return float(round_to(exact(a), f32_format, r)); });
      row("cvt" + m + ".f16" + name<S>(), [r = mode.round](S a) { return F16::round(exact(a), r); });
      if (mode.round == Round::nearest && sizeof(S) > 1) row("cvt" + m + ".bf16" + name<S>(), [](S a) { return BF16::round(exact(a)); });
    }
    row("cvt.rn.f64" + name<S>(), [](S a) { return double(a); });
  });
}

void floats_to_floats() {
  for (const Mode& mode : float_modes) {
    const std::string m = mode.name;
    const Round r = mode.round;
    row("cvt" + m + ".f32.f64", [r](double a) { return float(round_to(a, f32_format, r)); });
    row("cvt" + m + ".ftz.f32.f64", [r](double a) { return flush(float(round_to(a, f32_format, r))); });
    row("cvt" + m + ".f16.f32", [r](float a) { return F16::round(a, r); });
    row("cvt" + m + ".f16.f64", [r](double a) { return F16::round(a, r); });
    row("cvt" + m + ".bf16.f32", [r](float a) { return BF16::round(a, r); });
    row("cvt" + m + ".sat.f16.f32", [r](float a) { return F16::round(saturate(F16::round(a, r))); });
  }
  row("cvt.rn.ftz.f16.f32", [](float a) { return F16::round(flush(a)); });
  row("cvt.rn.bf16.f64", [](double a) { return BF16::round(a); });
  row("cvt.f32.f16", [](F16 a) { return float(a); });
  row("cvt.f32.bf16", [](BF16 a) { return float(a); });
  row("cvt.f64.f32", [](float a) { return double(a); });
  row("cvt.ftz.f64.f32", [](float a) { return double(flush(a)); });
  row("cvt.f64.f16", [](F16 a) { return double(a); });
  row("cvt.rn.bf16.f16", [](F16 a) { return BF16::round(a); });
  row("cvt.sat.f32.f32", [](float a) { return float(saturate(a)); });
  row("cvt.ftz.sat.f32.f32", [](float a) { return float(saturate(flush(a))); });
  row("cvt.sat.f32.f16", [](F16 a) { return float(saturate(a)); });
  row("cvt.ftz.f32.f32", [](float a) { return flush(a); });
  for (const Mode& mode : integer_modes) {
    const std::string m = mode.name;
    const Round r = mode.round;
    row("cvt" + m + ".f32.f32", [r](float a) { return float(whole_or_special(a, r)); });
    row("cvt" + m + ".ftz.f32.f32", [r](float a) { return float(whole_or_special(flush(a), r)); });
    row("cvt" + m + ".sat.f32.f32", [r](float a) { return float(saturate(whole_or_special(a, r))); });
    row("cvt" + m + ".f64.f64", [r](double a) { return whole_or_special(a, r); });
    row("cvt" + m + ".f16.f16", [r](F16 a) { return F16::round(whole_or_special(a, r)); });
    row("cvt" + m + ".bf16.bf16", [r](BF16 a) { return BF16::round(whole_or_special(a, r)); });
  }
}

// d = {a, b}: a in the upper half.
template <class T> void pairs(const std::string& t) {
  for (const Round r : {Round::nearest, Round::zero}) {
    const std::string m = r == Round::nearest ? ".rn" : ".rz";
    row("cvt" + m + t + ".f32", [r](float a, float b) { return Two<T>{T::round(b, r), T::round(a, r)}; });
    row("cvt" + m + ".relu" + t + ".f32", [r](float a, float b) {
      auto relu = [](T x) { return !std::isnan(double(x)) && (x.bits & 0x8000) ? T{0} : x; };
      return Two<T>{relu(T::round(b, r)), relu(T::round(a, r))};
    });
  }
}

}  // namespace

SUITE(conversions) {
  integers_to_integers();
  float_to_integers<float>();
  float_to_integers<double>();
  float_to_integers<F16>();
  float_to_integers<BF16>();
  integers_to_floats();
  floats_to_floats();
  pairs<F16>(".f16x2");
  pairs<BF16>(".bf16x2");
  // The source may lie in a wider register: its low bits count.
  row("cvt.s32.s8 %d, %a", [](int16_t a) { return int32_t(int8_t(a)); });
  row("cvt.u32.u16 %d, %a", [](uint32_t a) { return uint32_t(uint16_t(a)); });
  row("cvt.rn.f32.u8 %d, %a", [](uint32_t a) { return float(uint8_t(a)); });
  row("cvt.s64.s32 %d, %a", [](int64_t a) { return int64_t(int32_t(a)); });
  // A narrow result fills its wider register: sign or zeros.
  row("cvt.s8.s32 %d, %a", [](int32_t a) { return int32_t(int8_t(a)); });
  row("cvt.u16.u32 %d, %a", [](uint32_t a) { return a & 0xffff; });
  row("cvt.sat.u8.s32 %d, %a", [](int32_t a) { return uint32_t(std::min(std::max(a, 0), 255)); });
}

}  // namespace ptxemu::test
