// f32 and f64 arithmetic (PTX ISA, "Floating Point Instructions"). Multiplication and addition are never contracted here.
#include "float.h"

#include "select.h"

namespace ptxemu {
namespace {

struct Add {
  template <class T> static T apply(T a, T b) { return a + b; }
};
struct Sub {
  template <class T> static T apply(T a, T b) { return a - b; }
};
struct Mul {
  template <class T> static T apply(T a, T b) { return a * b; }
};
struct Div {
  template <class T> static T apply(T a, T b) { return a / b; }
};
struct Fma {
  template <class T> static T apply(T a, T b, T c) { return std::fma(a, b, c); }
};
template <bool nan> struct Min {
  template <class T> static T apply(T a, T b) { return minimum(a, b, nan); }
};
template <bool nan> struct Max {
  template <class T> static T apply(T a, T b) { return maximum(a, b, nan); }
};
template <bool maximum_, bool nan> struct XorSign {
  static float apply(float a, float b) {
    const uint32_t sign = (std::bit_cast<uint32_t>(a) ^ std::bit_cast<uint32_t>(b)) & 0x80000000u;
    const float r = maximum_ ? maximum(std::fabs(a), std::fabs(b), nan) : minimum(std::fabs(a), std::fabs(b), nan);
    return std::bit_cast<float>((std::bit_cast<uint32_t>(r) & 0x7fffffffu) | sign);
  }
};
// Sign bits only: a NaN keeps its payload.
struct Abs {
  template <class T> static T apply(T a) { return std::fabs(a); }
};
struct Neg {
  template <class T> static T apply(T a) { return -a; }
};
struct CopySign {
  template <class T> static T apply(T a, T b) { return std::copysign(b, a); }
};

template <class F, bool ftz, bool sat> struct Single {
  static float finish(float r) {
    r = canonical(flush_if<ftz>(r));
    return sat ? saturate(r) : r;
  }
  static float apply(float a) { return finish(F::apply(flush_if<ftz>(a))); }
  static float apply(float a, float b) { return finish(F::apply(flush_if<ftz>(a), flush_if<ftz>(b))); }
  static float apply(float a, float b, float c) { return finish(F::apply(flush_if<ftz>(a), flush_if<ftz>(b), flush_if<ftz>(c))); }
};

template <class F, int operands> Handler plain(Type type, bool ftz, bool sat) {
  if constexpr (operands == 1) {
    if (type == Type::f64) return unary<double, double, F>;
    return ftz ? unary<float, float, Single<F, true, false>> : unary<float, float, F>;
  } else if constexpr (operands == 2) {
    if (type == Type::f64) return binary<double, double, double, F>;
    if (sat) return ftz ? binary<float, float, float, Single<F, true, true>> : binary<float, float, float, Single<F, false, true>>;
    return ftz ? binary<float, float, float, Single<F, true, false>> : binary<float, float, float, Single<F, false, false>>;
  } else {
    if (type == Type::f64) return ternary<double, double, double, double, F>;
    if (sat)
      return ftz ? ternary<float, float, float, float, Single<F, true, true>> : ternary<float, float, float, float, Single<F, false, true>>;
    return ftz ? ternary<float, float, float, float, Single<F, true, false>> : ternary<float, float, float, float, Single<F, false, false>>;
  }
}

// The handler runs with another rounding mode; called through a volatile pointer so that nothing moves across.
template <class F, int operands, Rounding rounding> void directed(Warp& w, const Instruction& in, uint32_t mask) {
  Handler volatile handler = plain<F, operands>(in.aux & 4 ? Type::f64 : Type::f32, in.aux & 1, in.aux & 2);
  RoundingScope scope(rounding);
  handler(w, in, mask);
}

template <class F, int operands> Handler rounded(const Decoder& d) {
  const bool ftz = d.has("ftz"), sat = d.has("sat");
  if (d.type() == Type::f64 && (ftz || sat)) return nullptr;
  return d.has("rz")   ? directed<F, operands, Rounding::zero>
         : d.has("rm") ? directed<F, operands, Rounding::down>
         : d.has("rp") ? directed<F, operands, Rounding::up>
                       : plain<F, operands>(d.type(), ftz, sat);
}

void decode_copysign(Decoder& d) {
  d.expect_operands(3);
  d.target(0, d.type());
  d.sources(1, 2, d.type());
  d.emit(for_floats(d.type(), []<class T>() -> Handler { return binary<T, T, T, CopySign>; }));
}

template <class T> using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
template <class T, int test> void test_property(Warp& w, const Instruction& in, uint32_t mask) {
  const T* a = lanes<T>(w, in.from(0));
  const uint32_t r = gather_mask([&](int i) {
    const int c = std::fpclassify(a[i]);
    return test == 0   ? c != FP_NAN && c != FP_INFINITE
           : test == 1 ? c == FP_INFINITE
           : test == 2 ? c != FP_NAN
           : test == 3 ? c == FP_NAN
           : test == 4 ? c == FP_NORMAL
                       : c == FP_SUBNORMAL;
  });
  uint32_t& d = predicate(w, in.to(0));
  d = (d & ~mask) | (r & mask);
}

void decode_test(Decoder& d) {
  d.expect_operands(2);
  d.target(0, Type::pred);
  d.source(1, d.type());
  d.emit(for_floats(d.type(), [&]<class T>() -> Handler {
    return d.has("finite")       ? test_property<T, 0>
           : d.has("infinite")   ? test_property<T, 1>
           : d.has("number")     ? test_property<T, 2>
           : d.has("notanumber") ? test_property<T, 3>
           : d.has("normal")     ? test_property<T, 4>
           : d.has("subnormal")  ? test_property<T, 5>
                                 : nullptr;
  }));
}

}  // namespace

Handler float_handler(const Decoder& d) {
  const std::string_view op = d.part(0);
  const Type type = d.type();
  if (type != Type::f32 && type != Type::f64) return nullptr;
  const bool ftz = d.has("ftz"), nan = d.has("NaN");
  const_cast<Decoder&>(d).in.aux = uint16_t(ftz | d.has("sat") << 1 | (type == Type::f64) << 2);
  if (op == "add") return rounded<Add, 2>(d);
  if (op == "sub") return rounded<Sub, 2>(d);
  if (op == "mul") return rounded<Mul, 2>(d);
  if (op == "fma" || op == "mad") return rounded<Fma, 3>(d);
  if (op == "div") return d.has("approx") || d.has("full") ? divide_approximately(d) : rounded<Div, 2>(d);
  if (op == "min" || op == "max") {
    const bool max = op == "max";
    if (d.has("xorsign"))
      return type != Type::f32 ? nullptr
             : max ? (nan ? plain<XorSign<true, true>, 2>(type, ftz, false) : plain<XorSign<true, false>, 2>(type, ftz, false))
                   : (nan ? plain<XorSign<false, true>, 2>(type, ftz, false) : plain<XorSign<false, false>, 2>(type, ftz, false));
    return max ? (nan ? plain<Max<true>, 2>(type, ftz, false) : plain<Max<false>, 2>(type, ftz, false))
               : (nan ? plain<Min<true>, 2>(type, ftz, false) : plain<Min<false>, 2>(type, ftz, false));
  }
  if (op == "abs") return plain<Abs, 1>(type, ftz, false);
  if (op == "neg") return plain<Neg, 1>(type, ftz, false);
  return nullptr;
}

void add_float(Table& t) {
  t["copysign"] = decode_copysign;
  t["testp"] = decode_test;
}

}  // namespace ptxemu
