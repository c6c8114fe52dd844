// f16, f16x2, bf16, bf16x2 arithmetic (PTX ISA, "Half Precision Floating Point Instructions"). Computed in f32 and rounded once more: that
// is the correctly rounded result, as 24 bits >= 2 * 11 + 2; fma takes its sum rounded to odd.
#include "half.h"

#include "select.h"

namespace ptxemu {
namespace {

enum Flags : uint16_t { ftz = 1, sat = 2, relu = 4 };

struct Add {
  static float apply(float a, float b) { return a + b; }
};
struct Sub {
  static float apply(float a, float b) { return a - b; }
};
struct Mul {
  static float apply(float a, float b) { return a * b; }
};
struct Fma {
  static float apply(float a, float b, float c) { return fma_to_odd(a, b, c); }
};
template <bool nan> struct Min {
  static float apply(float a, float b) { return minimum(a, b, nan); }
};
template <bool nan> struct Max {
  static float apply(float a, float b) { return maximum(a, b, nan); }
};

inline void flush_subnormals(float* x) {
  for (int i = 0; i < 32; i++) x[i] = std::fabs(x[i]) < 0x1p-14f ? std::copysign(0.0f, x[i]) : x[i];
}

template <class F, int operands, bool bf16, bool packed> void compute(Warp& w, const Instruction& in, uint32_t mask) {
  alignas(32) float a[3][32], r[32];
  alignas(32) uint32_t half[2][32];
  for (int part = 0; part <= int(packed); part++) {
    for (int k = 0; k < operands; k++) {
      widen_half<bf16>(lanes<uint32_t>(w, in.from(k)), part, a[k]);
      if (in.aux & ftz && !bf16) flush_subnormals(a[k]);
    }
    for (int i = 0; i < 32; i++) {
      if constexpr (operands == 2) r[i] = F::apply(a[0][i], a[1][i]);
      else r[i] = F::apply(a[0][i], a[1][i], a[2][i]);
    }
    if (in.aux & sat)
      for (int i = 0; i < 32; i++) r[i] = saturate(r[i]);
    if (in.aux & relu)
      for (int i = 0; i < 32; i++) r[i] = r[i] != r[i] ? r[i] : r[i] > 0 ? r[i] : 0.0f;
    narrow_half<bf16>(r, half[part]);
    if (in.aux & ftz && !bf16)
      for (int i = 0; i < 32; i++) half[part][i] = half[part][i] & 0x7c00 ? half[part][i] : half[part][i] & 0x8000;
  }
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return packed ? half[0][i] | half[1][i] << 16 : half[0][i]; });
}

template <class F, int operands> Handler of_type(Type t) {
  return t == Type::f16     ? compute<F, operands, false, false>
         : t == Type::f16x2 ? compute<F, operands, false, true>
         : t == Type::bf16  ? compute<F, operands, true, false>
                            : compute<F, operands, true, true>;
}

template <uint32_t keep, uint32_t flip> void change_bits(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t* a = lanes<uint32_t>(w, in.from(0));
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return (a[i] & keep) ^ flip; });
}

}  // namespace

Handler half_handler(const Decoder& d) {
  const std::string_view op = d.part(0);
  const Type t = d.type();
  const bool packed = t == Type::f16x2 || t == Type::bf16x2, nan = d.has("NaN");
  const_cast<Decoder&>(d).in.aux = uint16_t((d.has("ftz") ? ftz : 0) | (d.has("sat") ? sat : 0) | (d.has("relu") ? relu : 0));
  if (op == "add") return of_type<Add, 2>(t);
  if (op == "sub") return of_type<Sub, 2>(t);
  if (op == "mul") return of_type<Mul, 2>(t);
  if (op == "fma") return of_type<Fma, 3>(t);
  if (d.has("xorsign")) return nullptr;
  if (op == "min") return nan ? of_type<Min<true>, 2>(t) : of_type<Min<false>, 2>(t);
  if (op == "max") return nan ? of_type<Max<true>, 2>(t) : of_type<Max<false>, 2>(t);
  if (op == "neg") return packed ? change_bits<~0u, 0x80008000u> : change_bits<0xffffu, 0x8000u>;
  if (op == "abs") return packed ? change_bits<0x7fff7fffu, 0u> : change_bits<0x7fffu, 0u>;
  return nullptr;
}

}  // namespace ptxemu
