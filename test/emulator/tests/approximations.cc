// Instructions whose result the ISA bounds by a maximum error: ex2, lg2, rcp, sqrt, rsqrt, sin, cos, tanh, div.
// PTX ISA 9.0, "Floating Point Instructions".
// Each is held against the exact value in double; special operands must give the special results of the ISA's tables.
#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

double reciprocal(double x) { return 1 / x; }
double inverse_root(double x) { return x == 0 ? std::copysign(HUGE_VAL, x) : 1 / std::sqrt(x); }

// f and its .ftz twin, which flushes subnormal operands and results.
void pair(const std::string& name, Tolerance tolerance, double (*f)(double)) {
  approximate_row<float>(name + ".approx.f32", tolerance, [f](float a) { return f(a); });
  approximate_row<float>(name + ".approx.ftz.f32", tolerance, [f](float a) {
    const double y = f(flush(a));
    return std::fabs(y) < 0x1p-126 ? std::copysign(0, y) : y;
  });
}

double quotient(float a, float b, bool ftz) {
  if (ftz) a = flush(a), b = flush(b);
  const double q = double(a) / b;
  return ftz && std::fabs(q) < 0x1p-126 ? std::copysign(0, q) : q;
}

// The reduced argument decides the error: promised to 2^-20.5 within ±2π, and no more than ±1 beyond.
template <double (*f)(double)> double circular(double x) {
  if (std::isfinite(x) && std::fabs(x) > 2 * M_PI) throw Unspecified();
  return std::isinf(x) ? NAN : f(x);
}

}  // namespace

SUITE(approximations) {
  pair("rcp", {.ulps = 1}, reciprocal);
  pair("sqrt", {.relative = 0x1p-23}, [](double x) { return std::sqrt(x); });
  pair("rsqrt", {.relative = std::exp2(-22.9)}, inverse_root);
  pair("ex2", {.ulps = 2}, [](double x) { return std::exp2(x); });
  pair("sin", {.absolute = std::exp2(-20.5)}, circular<std::sin>);
  pair("cos", {.absolute = std::exp2(-20.5)}, circular<std::cos>);
  pair("lg2", {.relative = 0x1p-22, .absolute = 0x1p-22}, [](double x) { return std::log2(x); });
  approximate_row<float>("tanh.approx.f32", {.relative = 0x1p-11}, [](float a) { return std::tanh(double(a)); });
  // f64 of the upper 32 bits of its operand: about 20 bits are right.
  auto gross = [](double a, double y) {
    if (a != 0 && !(std::fabs(a) >= 0x1p-1022 && std::fabs(a) < 0x1p1022)) throw Unspecified();
    return y;
  };
  approximate_row<double>("rcp.approx.ftz.f64", {.relative = 0x1p-19}, [gross](double a) { return gross(a, 1 / a); });
  approximate_row<double>("rsqrt.approx.f64", {.relative = 0x1p-19}, [gross](double a) { return gross(a, inverse_root(a)); });
  for (const bool ftz : {false, true}) {
    const std::string tail = ftz ? ".ftz.f32" : ".f32";
    approximate_row<float>("div.full" + tail, {.ulps = 2}, [ftz](float a, float b) { return quotient(a, b, ftz); });
    approximate_row<float>("div.approx" + tail, {.ulps = 2}, [ftz](float a, float b) {
      // Beyond 2^126 the result may be 0, and NaN for an infinite dividend.
      if (std::isfinite(b) && b != 0 && (std::fabs(b) > 0x1p126f || std::fabs(b) < 0x1p-126f)) throw Unspecified();
      return quotient(a, b, ftz);
    });
  }
}

}  // namespace ptxemu::test
