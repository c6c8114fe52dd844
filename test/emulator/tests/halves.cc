// f16, bf16, f16x2, bf16x2: add, sub, mul, fma, neg, abs, min, max with .sat, .relu, .NaN; ex2, tanh.
// PTX ISA 9.0, "Half Precision Floating Point Instructions".
// One rounding to nearest even; subnormals stay; the canonical NaN is 0x7fff.
#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

template <class T> T rounded(double x) { return T::round(x); }
template <class T> T lesser(T a, T b, bool nan_wins) {
  const bool a_nan = std::isnan(double(a)), b_nan = std::isnan(double(b));
  if (a_nan || b_nan) return nan_wins || (a_nan && b_nan) ? T{0x7fff} : a_nan ? b : a;
  if (double(a) == double(b)) return a.bits & 0x8000 ? a : b;
  return double(a) < double(b) ? a : b;
}
template <class T> T greater(T a, T b, bool nan_wins) {
  const T d = lesser(T{uint16_t(a.bits ^ 0x8000)}, T{uint16_t(b.bits ^ 0x8000)}, nan_wins);
  return std::isnan(double(d)) ? T{0x7fff} : T{uint16_t(d.bits ^ 0x8000)};
}

// Registers the row for T and the one for pairs of T.
template <class T, class F> void unary(const std::string& name, const std::string& type, F f) {
  row(name + "." + type, [f](T a) { return f(a); });
  row(name + "." + type + "x2", [f](Two<T> a) { return Two<T>{f(a.low), f(a.high)}; });
}
template <class T, class F> void binary(const std::string& name, const std::string& type, F f) {
  row(name + "." + type, [f](T a, T b) { return f(a, b); });
  row(name + "." + type + "x2", [f](Two<T> a, Two<T> b) { return Two<T>{f(a.low, b.low), f(a.high, b.high)}; });
}
template <class T, class F> void ternary(const std::string& name, const std::string& type, F f) {
  row(name + "." + type, [f](T a, T b, T c) { return f(a, b, c); });
  row(name + "." + type + "x2", [f](Two<T> a, Two<T> b, Two<T> c) { return Two<T>{f(a.low, b.low, c.low), f(a.high, b.high, c.high)}; });
}

template <class T> void arithmetic(const std::string& t) {
  for (const std::string r : {"", ".rn"}) {
    binary<T>("add" + r, t, [](T a, T b) { return rounded<T>(sum_to_odd(a, b)); });
    binary<T>("sub" + r, t, [](T a, T b) { return rounded<T>(sum_to_odd(a, -double(b))); });
    binary<T>("mul" + r, t, [](T a, T b) { return rounded<T>(double(a) * double(b)); });
  }
  auto fma = [](T a, T b, T c) { return rounded<T>(sum_to_odd(double(a) * double(b), c)); };
  ternary<T>("fma.rn", t, fma);
  ternary<T>("fma.rn.relu", t, [fma](T a, T b, T c) {
    const T d = fma(a, b, c);
    return std::isnan(double(d)) ? T{0x7fff} : d.bits & 0x8000 ? T{0} : d;
  });
  unary<T>("neg", t, [](T a) { return std::isnan(double(a)) ? a : T{uint16_t(a.bits ^ 0x8000)}; });
  unary<T>("abs", t, [](T a) { return T{uint16_t(a.bits & 0x7fff)}; });
  for (const bool nan_wins : {false, true}) {
    const std::string tail = nan_wins ? ".NaN" : "";
    binary<T>("min" + tail, t, [=](T a, T b) { return lesser(a, b, nan_wins); });
    binary<T>("max" + tail, t, [=](T a, T b) { return greater(a, b, nan_wins); });
  }
}

void saturating() {
  auto sat = [](double x) { return F16::round(saturate(F16::round(x))); };
  binary<F16>("add.sat", "f16", [=](F16 a, F16 b) { return sat(sum_to_odd(a, b)); });
  binary<F16>("mul.sat", "f16", [=](F16 a, F16 b) { return sat(double(a) * double(b)); });
  ternary<F16>("fma.rn.sat", "f16", [=](F16 a, F16 b, F16 c) { return sat(sum_to_odd(double(a) * double(b), c)); });
  auto f = [](F16 x) { return F16::round(std::fabs(double(x)) < 0x1p-14 ? std::copysign(0, double(x)) : double(x)); };
  binary<F16>("add.ftz", "f16", [=](F16 a, F16 b) { return f(F16::round(sum_to_odd(f(a), f(b)))); });
  ternary<F16>("fma.rn.ftz", "f16", [=](F16 a, F16 b, F16 c) { return f(F16::round(sum_to_odd(double(f(a)) * double(f(b)), f(c)))); });
}

}  // namespace

SUITE(halves) {
  arithmetic<F16>("f16");
  arithmetic<BF16>("bf16");
  saturating();
  // The ISA's maximum errors.
  approximate_row<F16>("ex2.approx.f16", {.relative = std::exp2(-9.9)}, [](F16 a) { return std::exp2(double(a)); });
  approximate_row<F16>("tanh.approx.f16", {.absolute = std::exp2(-10.987)}, [](F16 a) { return std::tanh(double(a)); });
  approximate_row<BF16>("ex2.approx.ftz.bf16", {.relative = 0x1p-7}, [](BF16 a) {
    const double y = std::exp2(double(a));
    return y < 0x1p-126 ? 0 : y;
  });
  approximate_row<BF16>("tanh.approx.bf16", {.absolute = 0x1p-8}, [](BF16 a) { return std::tanh(double(a)); });
}

}  // namespace ptxemu::test
