// f32 and f64 arithmetic that IEEE 754 defines to the last bit: add, sub, mul, fma, div, rcp, sqrt, min, max, abs, neg, copysign, testp.
// PTX ISA 9.0, "Floating Point Instructions". Every f32 result is the exact one, rounded once; .ftz flushes subnormal operands and results
// to signed zeros.
#include <limits>

#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
const float canonical_nan = bits_as<float>(0x7fffffffu);

struct Mode {
  const char* name;
  Round round;
};
constexpr Mode modes[] = {{".rn", Round::nearest}, {".rz", Round::zero}, {".rm", Round::down}, {".rp", Round::up}};

float rounded(double x, Round mode) { return float(round_to(x, f32_format, mode)); }

// One operation with its modifiers: `exact` gives the true result, or that result rounded to odd.
struct Modifiers {
  Round round;
  bool ftz, sat;
  float in(float x) const { return ftz ? flush(x) : x; }
  float out(double exact) const {
    const float x = rounded(exact, round);
    return in(sat ? float(saturate(x)) : x);
  }
};

template <class F> void with_modifiers(const std::string& name, bool saturates, F add) {
  for (const Mode& mode : modes)
    for (const bool ftz : {false, true})
      for (const bool sat : {false, true})
        if (!sat || saturates) add(text(name, mode.name, ftz ? ".ftz" : "", sat ? ".sat" : "", ".f32"), Modifiers{mode.round, ftz, sat});
}

void arithmetic() {
  with_modifiers("add", true, [](const std::string& name, Modifiers m) {
    row(name, [m](float a, float b) { return m.out(sum_to_odd(m.in(a), m.in(b), m.round)); });
  });
  with_modifiers("sub", true, [](const std::string& name, Modifiers m) {
    row(name, [m](float a, float b) { return m.out(sum_to_odd(m.in(a), -double(m.in(b)), m.round)); });
  });
  with_modifiers("mul", true, [](const std::string& name, Modifiers m) {
    row(name, [m](float a, float b) { return m.out(double(m.in(a)) * m.in(b)); });
  });
  for (const std::string name : {"fma", "mad"})
    with_modifiers(name, true, [](const std::string& name, Modifiers m) {
      row(name, [m](float a, float b, float c) { return m.out(sum_to_odd(double(m.in(a)) * m.in(b), m.in(c), m.round)); });
    });
  with_modifiers("div", false, [](const std::string& name, Modifiers m) {
    row(name, [m](float a, float b) { return m.out(quotient_to_odd(m.in(a), m.in(b))); });
  });
  with_modifiers("rcp", false,
                 [](const std::string& name, Modifiers m) { row(name, [m](float a) { return m.out(quotient_to_odd(1, m.in(a))); }); });
  with_modifiers("sqrt", false,
                 [](const std::string& name, Modifiers m) { row(name, [m](float a) { return m.out(root_to_odd(m.in(a))); }); });
  // No rounding modifier means .rn.
  row("add.f32", [](float a, float b) { return a + b; });
  row("sub.f32", [](float a, float b) { return a - b; });
  row("mul.f32", [](float a, float b) { return a * b; });
  row("add.ftz.f32", [](float a, float b) { return flush(flush(a) + flush(b)); });
  row("sub.ftz.f32", [](float a, float b) { return flush(flush(a) - flush(b)); });
  row("mul.ftz.f32", [](float a, float b) { return flush(flush(a) * flush(b)); });
  row("mul.sat.f32", [](float a, float b) { return float(saturate(a * b)); });
  row("add.f32 %d, %a, 0f3F800000", [](float a) { return a + 1; });
  row("fma.rn.f32 %d, %a, 0fBF000000, 0f4B400001", [](float a) { return rounded(sum_to_odd(a * -0.5, 12582913), Round::nearest); });
}

// min and max: the operand that is a number; two NaNs give the canonical one; -0 < +0. With .NaN one NaN is enough.
float lesser(float a, float b, bool nan_wins) {
  if (std::isnan(a) || std::isnan(b)) return nan_wins || (std::isnan(a) && std::isnan(b)) ? canonical_nan : std::isnan(a) ? b : a;
  return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
void extremes() {
  for (const bool ftz : {false, true})
    for (const bool nan_wins : {false, true}) {
      const std::string tail = text(ftz ? ".ftz" : "", nan_wins ? ".NaN" : "", ".f32");
      auto in = [ftz](float x) { return ftz ? flush(x) : x; };
      row("min" + tail, [=](float a, float b) { return lesser(in(a), in(b), nan_wins); });
      row("max" + tail, [=](float a, float b) {
        const float d = lesser(-in(a), -in(b), nan_wins);
        return std::isnan(d) ? canonical_nan : -d;
      });
    }
  row("min.xorsign.abs.f32", [](float a, float b) {
    const float d = lesser(std::fabs(a), std::fabs(b), false);
    return std::isnan(d) ? nan : std::signbit(a) != std::signbit(b) ? -d : d;
  });
}

void signs() {
  row("abs.f32", [](float a) { return std::fabs(a); });
  row("abs.ftz.f32", [](float a) { return std::fabs(flush(a)); });
  row("neg.f32", [](float a) { return -a; });
  row("neg.ftz.f32", [](float a) { return -flush(a); });
  row("copysign.f32", [](uint32_t a, uint32_t b) { return (a & 0x80000000) | (b & 0x7fffffff); });  // the sign of a, the magnitude of b
  row("copysign.f64", [](uint64_t a, uint64_t b) { return (a & uint64_t(1) << 63) | (b & ~(uint64_t(1) << 63)); });
  row("testp.finite.f32", [](float a) { return bool(std::isfinite(a)); });
  row("testp.infinite.f32", [](float a) { return bool(std::isinf(a)); });
  row("testp.number.f32", [](float a) { return !std::isnan(a); });
  row("testp.notanumber.f32", [](float a) { return bool(std::isnan(a)); });
  row("testp.normal.f32", [](float a) { return bool(std::isnormal(a)); });
  row("testp.subnormal.f32", [](float a) { return std::fpclassify(a) == FP_SUBNORMAL; });
}

void doubles() {
  row("add.f64", [](double a, double b) { return a + b; });
  row("add.rn.f64", [](double a, double b) { return a + b; });
  row("sub.f64", [](double a, double b) { return a - b; });
  row("mul.f64", [](double a, double b) { return a * b; });
  row("mul.rn.f64", [](double a, double b) { return a * b; });
  row("fma.rn.f64", [](double a, double b, double c) { return std::fma(a, b, c); });
  row("div.rn.f64", [](double a, double b) { return a / b; });
  row("rcp.rn.f64", [](double a) { return 1 / a; });
  row("sqrt.rn.f64", [](double a) { return std::sqrt(a); });
  row("abs.f64", [](double a) { return std::fabs(a); });
  row("neg.f64", [](double a) { return -a; });
  row("min.f64", [](double a, double b) {
    if (std::isnan(a)) return b;
    return std::isnan(b) || a < b || (a == b && std::signbit(a)) ? a : b;
  });
  row("max.f64", [](double a, double b) {
    if (std::isnan(a)) return b;
    return std::isnan(b) || a > b || (a == b && !std::signbit(a)) ? a : b;
  });
  row("add.f64 %d, %a, 0d3FF8000000000000", [](double a) { return a + 1.5; });
}

}  // namespace

SUITE(floats) {
  arithmetic();
  extremes();
  signs();
  doubles();
}

}  // namespace ptxemu::test
