// cvt (PTX ISA, "Data Movement and Conversion Instructions: cvt").
#include <algorithm>
#include <limits>

#include "half.h"
#include "select.h"

namespace ptxemu {
namespace {

enum Flags : uint16_t { ftz = 1, sat = 2, relu = 4, finite = 8 };

// .satfinite: the largest finite value instead of infinity.
inline float clamp_finite(float x, bool bf16) {
  const float most = bf16 ? std::bit_cast<float>(0x7f7f0000u) : 65504.0f;
  return x > most ? most : x < -most ? -most : x;
}

// The value of a source lane in a type that holds it exactly.
template <class S> struct Read {
  using Value = S;
  static S get(Warp& w, uint32_t operand, int i) { return narrow<S>(lanes<Slot<S>>(w, operand)[i]); }
};
template <> struct Read<half_bits> {
  using Value = float;
  static float get(Warp& w, uint32_t operand, int i) { return float_of_f16(lanes<uint32_t>(w, operand)[i]); }
};
template <> struct Read<bfloat_bits> {
  using Value = float;
  static float get(Warp& w, uint32_t operand, int i) { return float_of_bf16(lanes<uint32_t>(w, operand)[i] & 0xffff); }
};

template <Rounding r, class F> F to_integral(F x) {
  return r == Rounding::nearest ? std::nearbyint(x)
         : r == Rounding::down  ? std::floor(x)
         : r == Rounding::up    ? std::ceil(x)
                                : std::trunc(x);
}

template <class D, Rounding r, class F> D integer_of(F x) {  // clamps; NaN: see the notes of cvt
  const D least = std::numeric_limits<D>::min(), most = std::numeric_limits<D>::max();
  if (x != x) return std::is_same_v<F, double> || sizeof(D) == 8 ? D(std::make_unsigned_t<D>(1) << (sizeof(D) * 8 - 1)) : D(0);
  const double y = to_integral<r>(double(x));
  if (y >= double(most)) return most;
  if (y <= double(least)) return least;
  return D(y);
}

template <class D, class S> D clamped(S x) {
  using L = std::numeric_limits<D>;
  if (std::is_signed_v<S> && int64_t(x) < int64_t(L::min()) && (std::is_signed_v<D> || x < S(0))) return L::min();
  if ((!std::is_signed_v<S> || x > S(0)) && uint64_t(x) > uint64_t(L::max())) return L::max();
  return D(x);
}

template <class D, class S, Rounding r> void convert(Warp& w, const Instruction& in, uint32_t mask) {
  using V = typename Read<S>::Value;
  const uint16_t flags = in.aux;
  const uint32_t from = in.from(0);
  auto value = [&](int i) {
    V v = Read<S>::get(w, from, i);
    if constexpr (std::is_same_v<V, float>)
      if (flags & ftz && std::is_same_v<S, float>) v = flush(v);
    return v;
  };
  if constexpr (std::is_same_v<D, half_bits> || std::is_same_v<D, bfloat_bits>) {
    constexpr bool bf16 = std::is_same_v<D, bfloat_bits>;
    auto to_half = [&](V v) -> uint32_t {
      float f;
      if constexpr (std::is_same_v<V, float>) f = v;
      else f = float_to_odd(v);
      if (flags & sat) f = saturate(f);
      if (flags & relu) f = f != f ? f : f > 0 ? f : 0.0f;
      if (flags & finite) f = clamp_finite(f, bf16);
      if (r == Rounding::zero) return bf16 ? bf16_towards_zero(f) : f16_towards_zero(f);
      if (r == Rounding::down) return bf16 ? bf16_downwards(f) : f16_downwards(f);
      if (r == Rounding::up) return bf16 ? bf16_upwards(f) : f16_upwards(f);
      return bf16 ? bf16_of(f) : f16_of(f);
    };
    if constexpr (std::is_same_v<S, float> && r == Rounding::nearest) {
      if (!flags) {
        alignas(32) uint32_t half[32];
        narrow_half<bf16>(lanes<float>(w, from), half);
        return for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return half[i]; });
      }
    }
    each_active(mask, [&](int i) { lanes<uint32_t>(w, in.to(0))[i] = to_half(value(i)); });
  } else if constexpr (std::is_floating_point_v<D>) {
    if constexpr (std::is_same_v<D, float> && (std::is_same_v<S, half_bits> || std::is_same_v<S, bfloat_bits>)) {
      alignas(32) float wide[32];
      widen_half<std::is_same_v<S, bfloat_bits>>(lanes<uint32_t>(w, from), 0, wide);
      return for_lanes(lanes<float>(w, in.to(0)), mask, [&](int i) { return flags & sat ? saturate(wide[i]) : canonical(wide[i]); });
    } else {
      for_lanes(lanes<D>(w, in.to(0)), mask, [&](int i) {
        D v = D(value(i));
        if (flags & sat) v = saturate(v);
        if (flags & ftz && std::is_same_v<D, float>) v = flush(v);
        return canonical(v);
      });
    }
  } else if constexpr (std::is_floating_point_v<V>) {
    for_lanes(lanes<Slot<D>>(w, in.to(0)), mask, [&](int i) { return widen<D>(integer_of<D, r>(value(i))); });
  } else {
    for_lanes(lanes<Slot<D>>(w, in.to(0)), mask, [&](int i) {
      D v = flags & sat ? clamped<D>(value(i)) : D(value(i));
      return sizeof(D) < 4 && std::is_signed_v<D> ? Slot<D>(int32_t(v)) : widen<D>(v);  // a wider register gets the sign
    });
  }
}

// .rni and the like: to an integral value of the same type.
template <class T, Rounding r> void round_to_integral(Warp& w, const Instruction& in, uint32_t mask) {
  const uint16_t flags = in.aux;
  if constexpr (std::is_floating_point_v<T>) {
    const T* a = lanes<T>(w, in.from(0));
    for_lanes(lanes<T>(w, in.to(0)), mask, [&](int i) {
      T v = to_integral<r>(flags & ftz ? flush(a[i]) : a[i]);
      return canonical(flags & sat ? saturate(v) : v);
    });
  } else {
    each_active(mask, [&](int i) {
      const float v = to_integral<r>(Read<T>::get(w, in.from(0), i));
      lanes<uint32_t>(w, in.to(0))[i] = std::is_same_v<T, bfloat_bits> ? bf16_of(v) : f16_of(v);
    });
  }
}

// Integers and f64 to floats with a directed rounding; called through a volatile pointer, see float.cc.
template <class D, class S, Rounding r> void convert_directed(Warp& w, const Instruction& in, uint32_t mask) {
  Handler volatile handler = convert<D, S, r>;
  RoundingScope scope(r);
  handler(w, in, mask);
}

template <class D, class S> Handler with_rounding(Rounding r) {
  constexpr bool scoped =
      std::is_floating_point_v<D> && !std::is_same_v<S, float> && !std::is_same_v<S, half_bits> && !std::is_same_v<S, bfloat_bits>;
  constexpr bool half = std::is_same_v<D, half_bits> || std::is_same_v<D, bfloat_bits>;
  constexpr bool integer = !std::is_floating_point_v<D> && !half;
  if constexpr (scoped) {
    return r == Rounding::nearest ? convert<D, S, Rounding::nearest>
           : r == Rounding::zero  ? convert_directed<D, S, Rounding::zero>
           : r == Rounding::down  ? convert_directed<D, S, Rounding::down>
                                  : convert_directed<D, S, Rounding::up>;
  } else if constexpr (half || (integer && std::is_floating_point_v<typename Read<S>::Value>)) {
    return r == Rounding::nearest ? convert<D, S, Rounding::nearest>
           : r == Rounding::zero  ? convert<D, S, Rounding::zero>
           : r == Rounding::down  ? convert<D, S, Rounding::down>
                                  : convert<D, S, Rounding::up>;
  } else {
    return convert<D, S, Rounding::nearest>;
  }
}

template <class G> Handler for_any(Type type, G&& get) {
  switch (type) {
    case Type::u8:
    case Type::b8: return get.template operator()<uint8_t>();
    case Type::s8: return get.template operator()<int8_t>();
    case Type::f16: return get.template operator()<half_bits>();
    case Type::bf16: return get.template operator()<bfloat_bits>();
    case Type::f32: return get.template operator()<float>();
    case Type::f64: return get.template operator()<double>();
    default: return for_integers(type, get);
  }
}

// cvt.rn.f16x2.f32 d, a, b: a becomes the upper half.
template <bool bf16, bool towards_zero> void convert_pair(Warp& w, const Instruction& in, uint32_t mask) {
  const float *a = lanes<float>(w, in.from(0)), *b = lanes<float>(w, in.from(1));
  alignas(32) uint32_t half[2][32];
  alignas(32) float limited[2][32];
  if (in.aux & (relu | finite)) {
    auto limit = [&](float x) {
      if (in.aux & relu) x = x != x ? x : x > 0 ? x : 0.0f;
      return in.aux & finite ? clamp_finite(x, bf16) : x;
    };
    for (int i = 0; i < 32; i++) limited[0][i] = limit(a[i]), limited[1][i] = limit(b[i]);
    a = limited[0], b = limited[1];
  }
  if constexpr (towards_zero) {
    for (int i = 0; i < 32; i++) {
      half[0][i] = bf16 ? bf16_towards_zero(a[i]) : f16_towards_zero(a[i]);
      half[1][i] = bf16 ? bf16_towards_zero(b[i]) : f16_towards_zero(b[i]);
    }
  } else {
    narrow_half<bf16>(a, half[0]);
    narrow_half<bf16>(b, half[1]);
  }
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return half[0][i] << 16 | half[1][i]; });
}

struct LowWord {
  static uint32_t apply(uint64_t a) { return uint32_t(a); }
};
struct SignExtend {
  static int64_t apply(int32_t a) { return a; }
};
struct ZeroExtend {
  static uint64_t apply(uint32_t a) { return a; }
};

// Integers in registers wider than their type (PTX ISA, "Operand Size Exceeding Instruction-Type Size"): narrowed before, widened after.
void decode_wide(Decoder& d, Type from, Type to, bool wide_source, bool wide_target) {
  if (is_float(from) || is_float(to) || d.has("sat")) d.unknown();
  const uint32_t narrow = wide_source ? d.new_operand(Type::b32) : 0, result = wide_target ? d.new_operand(Type::b32) : 0;
  if (wide_source) {
    d.in.operand[d.in.targets++] = narrow;
    d.source(1, Type::b64);
    d.emit(unary<uint32_t, uint64_t, LowWord>);
  }
  if (wide_target) d.in.operand[d.in.targets++] = result;
  else d.target(0, to);
  if (wide_source) d.in.operand[d.in.targets + d.in.sources++] = narrow;
  else d.source(1, from);
  d.emit(for_any(to, [&]<class D>() -> Handler {
    return for_any(from, [&]<class S>() -> Handler { return with_rounding<D, S>(Rounding::nearest); });
  }));
  if (!wide_target) return;
  d.target(0, Type::b64);
  d.in.operand[d.in.targets + d.in.sources++] = result;
  d.emit(is_signed(to) ? Handler(unary<int64_t, int32_t, SignExtend>) : Handler(unary<uint64_t, uint32_t, ZeroExtend>));
}

void decode(Decoder& d) {
  const Type from = d.type(), to = d.type_at(1);
  const bool integral = d.has("rni") || d.has("rzi") || d.has("rmi") || d.has("rpi");
  const Rounding r = d.has("rz") || d.has("rzi")   ? Rounding::zero
                     : d.has("rm") || d.has("rmi") ? Rounding::down
                     : d.has("rp") || d.has("rpi") ? Rounding::up
                                                   : Rounding::nearest;
  d.in.special = is_float(to) != is_float(from) || (is_float(to) && bytes(to) < bytes(from)) || to == Type::f16x2 || to == Type::bf16x2;
  d.in.aux = uint16_t((d.has("ftz") ? ftz : 0) | (d.has("sat") ? sat : 0) | (d.has("relu") ? relu : 0) | (d.has("satfinite") ? finite : 0));
  const bool to_half = to == Type::f16 || to == Type::bf16 || to == Type::f16x2 || to == Type::bf16x2;
  if (to == Type::none || (d.has("satfinite") && (!to_half || from != Type::f32)) || d.has("rna") || d.has("rs")) d.unknown();
  if (to == Type::f16x2 || to == Type::bf16x2) {
    if (from != Type::f32 || d.has("sat")) d.unknown();
    d.expect_operands(3);
    d.target(0, to);
    d.sources(1, 2, from);
    const bool bf16 = to == Type::bf16x2, zero = r == Rounding::zero;
    return d.emit(bf16   ? (zero ? convert_pair<true, true> : convert_pair<true, false>)
                  : zero ? convert_pair<false, true>
                         : convert_pair<false, false>);
  }
  d.expect_operands(2);
  const bool wide_source = bytes(from) < 8 && d.is_wide(d.operand(1)), wide_target = bytes(to) < 8 && d.is_wide(d.operand(0));
  if (wide_source || wide_target) return decode_wide(d, from, to, wide_source, wide_target);
  d.target(0, to);
  d.source(1, from);
  if (integral && to == from) {
    return d.emit(for_any(to, [&]<class T>() -> Handler {
      if constexpr (std::is_integral_v<T>) return nullptr;
      else
        return r == Rounding::nearest ? round_to_integral<T, Rounding::nearest>
               : r == Rounding::zero  ? round_to_integral<T, Rounding::zero>
               : r == Rounding::down  ? round_to_integral<T, Rounding::down>
                                      : round_to_integral<T, Rounding::up>;
    }));
  }
  d.emit(for_any(to, [&]<class D>() -> Handler { return for_any(from, [&]<class S>() -> Handler { return with_rounding<D, S>(r); }); }));
}

}  // namespace

void add_convert(Table& t) { t["cvt"] = decode; }

}  // namespace ptxemu
