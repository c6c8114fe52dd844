// rcp, sqrt, rsqrt, ex2, lg2, sin, cos, tanh, div.approx, div.full (PTX ISA, "Floating Point Instructions"). The approximate forms give the
// correctly rounded result, or with Options::jitter another one within the error that the ISA allows: a kernel must not depend on which.
#include "half.h"
#include "select.h"

namespace ptxemu {
namespace {

// `ulps`: the largest error that the ISA allows, where it says so in units of the last place; else `error`, relative or absolute.
struct Reciprocal {
  static constexpr int ulps = 1;
  template <class T> static T apply(T a) { return T(1) / a; }
};
struct SquareRoot {
  static constexpr int ulps = 1;
  template <class T> static T apply(T a) { return std::sqrt(a); }
};
struct InverseSquareRoot {
  static constexpr int ulps = 1;
  template <class T> static T apply(T a) { return T(1 / std::sqrt(double(a))); }
};
struct Exp2 {
  static constexpr int ulps = 2;
  template <class T> static T apply(T a) { return std::exp2(a); }
};
struct Log2 {
  static constexpr int ulps = 2;
  template <class T> static T apply(T a) { return std::log2(a); }
};
struct Sin {
  static constexpr int ulps = 0;
  static float error(float) { return 0x1p-22f; }
  template <class T> static T apply(T a) { return std::sin(a); }
};
struct Cos {
  static constexpr int ulps = 0;
  static float error(float) { return 0x1p-22f; }
  template <class T> static T apply(T a) { return std::cos(a); }
};
struct Tanh {
  static constexpr int ulps = 0;
  static float error(float r) { return r * 0x1p-13f; }
  template <class T> static T apply(T a) { return std::tanh(a); }
};

// A function of the bits of the operands.
inline uint32_t hash_of(uint32_t bits, uint64_t seed) {
  uint64_t h = (bits + seed * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
  h = (h ^ h >> 31) * 0x94d049bb133111eb;
  return uint32_t(h >> 40);
}

// One of the floats at most `ulps` units from the exact result, of which r is the nearest.
float jittered(float r, double exact, int ulps, uint32_t hash) {
  if (!(std::fabs(r) >= 0x1p-120f && std::fabs(r) < 0x1p+127f)) return r;  // 0, NaN, infinity and the edges stay
  const double rest = std::fabs(exact) - std::fabs(double(r));
  const int side = rest > 0 || (rest == 0 && hash & 0x100) ? 1 : -1;  // r + side is the second nearest
  int step = (ulps == 1 ? int(hash & 1) : int(hash & 3) - 1) * side;
  if (step > 0 && side < 0 && !(std::bit_cast<uint32_t>(r) & 0x7fffff)) step = 0;  // above a power of two units are twice as large
  return std::bit_cast<float>(std::bit_cast<int32_t>(r) + step);
}

template <class F, bool ftz> void approximate(Warp& w, const Instruction& in, uint32_t mask) {
  const float* a = lanes<float>(w, in.from(0));
  float* d = lanes<float>(w, in.to(0));
  const Options& options = *w.block->options;
  alignas(32) float r[32];
  for (int i = 0; i < 32; i++) r[i] = canonical(flush_if<ftz>(F::apply(flush_if<ftz>(a[i]))));
  if (options.jitter)
    for (int i = 0; i < 32; i++) {
      const uint32_t hash = hash_of(std::bit_cast<uint32_t>(a[i]), options.seed);
      if (flush_if<ftz>(a[i]) == 0) continue;  // 2^0 = cos 0 = 1 exactly
      if constexpr (F::ulps > 0) r[i] = jittered(r[i], F::apply(double(flush_if<ftz>(a[i]))), F::ulps, hash);
      else r[i] += F::error(r[i]) * (int32_t(hash % 5) - 2);
    }
  for_lanes(d, mask, [&](int i) { return r[i]; });
}

template <bool ftz, bool full> void divide(Warp& w, const Instruction& in, uint32_t mask) {
  const float *a = lanes<float>(w, in.from(0)), *b = lanes<float>(w, in.from(1));
  float* d = lanes<float>(w, in.to(0));
  const Options& options = *w.block->options;
  alignas(32) float r[32];
  for (int i = 0; i < 32; i++) {
    const float x = flush_if<ftz>(a[i]), y = flush_if<ftz>(b[i]);
    r[i] = canonical(flush_if<ftz>(x / y));
    // div.approx is a * (1 / b), and 1 / b is flushed where |b| > 2^126.
    if (!full && std::fabs(y) > 0x1p126f && std::isfinite(y))
      r[i] = std::isinf(x) ? std::bit_cast<float>(0x7fffffffu) : std::copysign(0.0f, x * y);
  }
  if (options.jitter)
    for (int i = 0; i < 32; i++) {
      const double exact = double(flush_if<ftz>(a[i])) / double(flush_if<ftz>(b[i]));
      r[i] = jittered(r[i], exact, 2, hash_of(std::bit_cast<uint32_t>(a[i]) * 31 + std::bit_cast<uint32_t>(b[i]), options.seed));
    }
  for_lanes(d, mask, [&](int i) { return r[i]; });
}

// -1 ... 1 unit of the last place; 0, 1, subnormals, infinity, NaN and their neighbours stay.
template <bool bf16> uint32_t jittered_half(uint32_t r, uint32_t bits, uint64_t seed) {
  constexpr int mantissa = bf16 ? 7 : 10, least = 2 << mantissa, most = ((0x7fff >> mantissa) - 2) << mantissa,
                one = bf16 ? 0x3f80 : 0x3c00;
  const int magnitude = int(r & 0x7fff);
  return magnitude < least || magnitude > most || magnitude == one ? r : r + hash_of(bits, seed) % 3 - 1;
}

template <class F, bool bf16, bool packed> void approximate_half(Warp& w, const Instruction& in, uint32_t mask) {
  alignas(32) float a[32];
  alignas(32) uint32_t half[2][32];
  for (int part = 0; part <= int(packed); part++) {
    widen_half<bf16>(lanes<uint32_t>(w, in.from(0)), part, a);
    const bool ftz = in.aux & 1;
    for (int i = 0; i < 32; i++) a[i] = ftz ? flush(F::apply(flush(a[i]))) : F::apply(a[i]);
    narrow_half<bf16>(a, half[part]);
    const Options& options = *w.block->options;
    if (options.jitter)
      for (int i = 0; i < 32; i++) half[part][i] = jittered_half<bf16>(half[part][i], std::bit_cast<uint32_t>(a[i]), options.seed);
  }
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return packed ? half[0][i] | half[1][i] << 16 : half[0][i]; });
}
template <class F> Handler half_of(Type t) {
  return t == Type::f16      ? approximate_half<F, false, false>
         : t == Type::f16x2  ? approximate_half<F, false, true>
         : t == Type::bf16   ? approximate_half<F, true, false>
         : t == Type::bf16x2 ? approximate_half<F, true, true>
                             : nullptr;
}

// rcp.rn and sqrt.rn are exact; other rounding modes run the same code under them.
template <class F, bool ftz> struct Exact {
  static float apply(float a) { return canonical(flush_if<ftz>(F::apply(flush_if<ftz>(a)))); }
};
template <class F> void exact(Warp& w, const Instruction& in, uint32_t mask) {
  Handler volatile handler = in.aux & 4   ? Handler(unary<double, double, F>)
                             : in.aux & 1 ? Handler(unary<float, float, Exact<F, true>>)
                                          : Handler(unary<float, float, Exact<F, false>>);
  RoundingScope scope(Rounding(in.aux >> 4));
  handler(w, in, mask);
}

template <class F> Handler single(const Decoder& d) { return d.has("ftz") ? approximate<F, true> : approximate<F, false>; }

void decode(Decoder& d) {
  const std::string_view op = d.part(0);
  const Type t = d.type();
  d.expect_operands(2);
  d.target(0, t);
  d.source(1, t);
  d.in.flops = d.in.special = 1;
  d.in.aux = d.has("ftz");
  if (is_half(t)) return d.emit(!d.has("approx") ? nullptr : op == "ex2" ? half_of<Exp2>(t) : op == "tanh" ? half_of<Tanh>(t) : nullptr);
  const bool rounds = d.has("rn") || d.has("rz") || d.has("rm") || d.has("rp");
  if ((op == "rcp" || op == "sqrt") && rounds) {
    const Rounding r = d.has("rz") ? Rounding::zero : d.has("rm") ? Rounding::down : d.has("rp") ? Rounding::up : Rounding::nearest;
    d.in.aux |= uint16_t((t == Type::f64) << 2 | uint16_t(r) << 4);
    return d.emit(op == "rcp" ? exact<Reciprocal> : exact<SquareRoot>);
  }
  if (t == Type::f64) {  // .approx.ftz.f64: the upper 20 bits of the mantissa at least
    return d.emit(op == "rcp" ? unary<double, double, Reciprocal> : op == "rsqrt" ? unary<double, double, InverseSquareRoot> : nullptr);
  }
  if (t != Type::f32) d.unknown();
  d.emit(op == "rcp"     ? single<Reciprocal>(d)
         : op == "sqrt"  ? single<SquareRoot>(d)
         : op == "rsqrt" ? single<InverseSquareRoot>(d)
         : op == "ex2"   ? single<Exp2>(d)
         : op == "lg2"   ? single<Log2>(d)
         : op == "sin"   ? single<Sin>(d)
         : op == "cos"   ? single<Cos>(d)
         : op == "tanh"  ? single<Tanh>(d)
                         : nullptr);
}

}  // namespace

Handler divide_approximately(const Decoder& d) {
  if (d.type() != Type::f32) return nullptr;
  const bool full = d.has("full");
  return d.has("ftz") ? (full ? divide<true, true> : divide<true, false>) : full ? divide<false, true> : divide<false, false>;
}

void add_approximate(Table& t) {
  for (auto op : {"rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"}) t[op] = decode;
}

}  // namespace ptxemu
