// Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions", "Extended-Precision Integer Arithmetic Instructions").
#include <limits>

#include "select.h"

namespace ptxemu {
namespace {

template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> using Wide = std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                                                   std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
template <class T> constexpr int bit_count = int(sizeof(T)) * 8;

struct Add {
  template <class T> static T apply(T a, T b) { return T(Unsigned<T>(a) + Unsigned<T>(b)); }
};
struct Sub {
  template <class T> static T apply(T a, T b) { return T(Unsigned<T>(a) - Unsigned<T>(b)); }
};
struct Mul {
  template <class T> static T apply(T a, T b) { return T(Wide<Unsigned<T>>(Unsigned<T>(a)) * Unsigned<T>(b)); }
};
struct MulHigh {
  template <class T> static T apply(T a, T b) { return T(Wide<T>(a) * b >> bit_count<T>); }
};
struct Mad {
  template <class T> static T apply(T a, T b, T c) { return Add::apply(Mul::apply(a, b), c); }
};
struct MadHigh {
  template <class T> static T apply(T a, T b, T c) { return Add::apply(MulHigh::apply(a, b), c); }
};
// Division by zero is not defined by PTX; GPUs answer with all bits set.
struct Div {
  template <class T> static T apply(T a, T b) {
    if (b == 0) return T(-1);
    if (std::is_signed_v<T> && b == T(-1)) return Sub::apply(T(0), a);
    return T(a / b);
  }
};
struct Rem {
  template <class T> static T apply(T a, T b) {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == T(-1)) return 0;
    return T(a % b);
  }
};
struct Min {
  template <class T> static T apply(T a, T b) { return a < b ? a : b; }
};
struct Max {
  template <class T> static T apply(T a, T b) { return a > b ? a : b; }
};
struct MinRelu {
  template <class T> static T apply(T a, T b) {
    T m = a < b ? a : b;
    return m > 0 ? m : 0;
  }
};
struct MaxRelu {
  template <class T> static T apply(T a, T b) {
    T m = a > b ? a : b;
    return m > 0 ? m : 0;
  }
};
struct Abs {
  template <class T> static T apply(T a) { return a < 0 ? Sub::apply(T(0), a) : a; }
};
struct Neg {
  template <class T> static T apply(T a) { return Sub::apply(T(0), a); }
};
struct Sad {
  template <class T> static T apply(T a, T b, T c) { return Add::apply(c, a < b ? Sub::apply(b, a) : Sub::apply(a, b)); }
};
struct AddSaturated {
  static int32_t apply(int32_t a, int32_t b) {
    int64_t r = int64_t(a) + b;
    return int32_t(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct SubSaturated {
  static int32_t apply(int32_t a, int32_t b) {
    int64_t r = int64_t(a) - b;
    return int32_t(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct MadHighSaturated {
  static int32_t apply(int32_t a, int32_t b, int32_t c) { return AddSaturated::apply(MulHigh::apply(a, b), c); }
};
template <class D> struct MulWide {
  template <class T> static D apply(T a, T b) { return D(D(a) * D(b)); }
};
template <class D> struct MadWide {
  template <class T> static D apply(T a, T b, D c) { return Add::apply(D(D(a) * D(b)), c); }
};
template <class T> T low_24(T a) { return T(Unsigned<T>(a) << 8) >> 8; }
struct Mul24 {
  template <class T> static T apply(T a, T b) { return T(Wide<T>(low_24(a)) * low_24(b)); }
};
struct Mul24High {
  template <class T> static T apply(T a, T b) { return T(Wide<T>(low_24(a)) * low_24(b) >> 16); }
};
struct Mad24 {
  template <class T> static T apply(T a, T b, T c) { return Add::apply(Mul24::apply(a, b), c); }
};

template <class T, class F> struct Pair {
  static uint32_t apply(uint32_t a, uint32_t b) {
    return uint16_t(F::apply(T(a), T(b))) | uint32_t(uint16_t(F::apply(T(a >> 16), T(b >> 16)))) << 16;
  }
};
template <class F> Handler pair_of(Type t) {
  using U = uint32_t;
  return t == Type::s16x2 ? Handler(binary<U, U, U, Pair<int16_t, F>>) : Handler(binary<U, U, U, Pair<uint16_t, F>>);
}

template <class D, class T> Handler wide_of(bool mad) {
  return mad ? Handler(ternary<D, T, T, D, MadWide<D>>) : Handler(binary<D, T, T, MulWide<D>>);
}

// add.cc, addc, sub.cc, subc, mad.lo.cc, ...: a chain of words through the carry flag of the lane.
template <class T, char op, bool carry_in, bool carry_out, bool high> void extended(Warp& w, const Instruction& in, uint32_t mask) {
  using U = Unsigned<T>;
  Slot<T>* d = lanes<Slot<T>>(w, in.to(0));
  const Slot<T>*a = lanes<Slot<T>>(w, in.from(0)), *b = lanes<Slot<T>>(w, in.from(1)),
        *c = op == 'm' ? lanes<Slot<T>>(w, in.from(2)) : nullptr;
  uint32_t out = 0;
  each_active(mask, [&](int i) {
    unsigned __int128 x = U(a[i]), y = U(b[i]);
    if (op == 'm') x = high ? U(MulHigh::apply(T(a[i]), T(b[i]))) : U(x * y), y = U(c[i]);
    unsigned __int128 carry = carry_in ? w.carry >> i & 1 : 0, r = op == '-' ? x - y - carry : x + y + carry;
    d[i] = U(r);
    out |= uint32_t(r >> bit_count<T> & 1) << i;
  });
  if (carry_out) w.carry = (w.carry & ~mask) | out;
}
template <char op> Handler extended_of(const Decoder& d, bool carry_in) {
  const bool out = d.has("cc"), high = d.has("hi");
  return for_32_and_64(d.type(), [&]<class T>() -> Handler {
    if (high)
      return carry_in ? (out ? extended<T, op, true, true, true> : extended<T, op, true, false, true>) : extended<T, op, false, true, true>;
    return carry_in ? (out ? extended<T, op, true, true, false> : extended<T, op, true, false, false>)
                    : extended<T, op, false, true, false>;
  });
}

// dp4a.atype.btype d, a, b, c: four products of bytes; dp2a: two of 16 bits by 8.
template <class A, class B> void dot4(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t* d = lanes<uint32_t>(w, in.to(0));
  const uint32_t *a = lanes<uint32_t>(w, in.from(0)), *b = lanes<uint32_t>(w, in.from(1)), *c = lanes<uint32_t>(w, in.from(2));
  for_lanes(d, mask, [&](int i) {
    uint32_t sum = c[i];
    for (int k = 0; k < 32; k += 8) sum += uint32_t(int32_t(A(a[i] >> k)) * int32_t(B(b[i] >> k)));
    return sum;
  });
}

void decode_dp4a(Decoder& d) {
  d.expect_operands(4);
  const bool a = d.type_at(1) == Type::s32, b = d.type() == Type::s32;
  d.target(0, Type::u32);
  d.sources(1, 3, Type::u32);
  d.emit(a ? (b ? dot4<int8_t, int8_t> : dot4<int8_t, uint8_t>) : b ? dot4<uint8_t, int8_t> : dot4<uint8_t, uint8_t>);
}

}  // namespace

Handler integer_handler(const Decoder& d) {
  const std::string_view op = d.part(0);
  const Type type = d.type();
  const bool high = d.has("hi"), saturated = d.has("sat");
  if (op == "addc" || op == "subc" || op == "madc" || d.has("cc"))
    return op.starts_with("add")   ? extended_of<'+'>(d, op == "addc")
           : op.starts_with("sub") ? extended_of<'-'>(d, op == "subc")
                                   : extended_of<'m'>(d, op == "madc");
  if (d.has("wide")) {
    const bool mad = op == "mad";
    switch (type) {
      case Type::s32: return wide_of<int64_t, int32_t>(mad);
      case Type::u32: return wide_of<uint64_t, uint32_t>(mad);
      case Type::s16: return wide_of<int32_t, int16_t>(mad);
      case Type::u16: return wide_of<uint32_t, uint16_t>(mad);
      default: return nullptr;
    }
  }
  if (saturated) {
    if (type != Type::s32) return nullptr;
    if (op == "add") return binary<int32_t, int32_t, int32_t, AddSaturated>;
    if (op == "sub") return binary<int32_t, int32_t, int32_t, SubSaturated>;
    return op == "mad" && high ? ternary<int32_t, int32_t, int32_t, int32_t, MadHighSaturated> : nullptr;
  }
  const bool relu = d.has("relu");
  if (type == Type::u16x2 || type == Type::s16x2) {
    if (relu && type == Type::u16x2) return nullptr;
    if (op == "min") return relu ? pair_of<MinRelu>(type) : pair_of<Min>(type);
    if (op == "max") return relu ? pair_of<MaxRelu>(type) : pair_of<Max>(type);
    return op == "add" && !relu ? pair_of<Add>(type) : nullptr;
  }
  if (relu) {
    if (type != Type::s32) return nullptr;
    return op == "min" ? binary<int32_t, int32_t, int32_t, MinRelu> : op == "max" ? binary<int32_t, int32_t, int32_t, MaxRelu> : nullptr;
  }
  if (op == "mul24" || op == "mad24") {
    if (op == "mad24" && high) return nullptr;
    if (type == Type::u32)
      return op == "mad24" ? ternary<uint32_t, uint32_t, uint32_t, uint32_t, Mad24>
             : high        ? binary<uint32_t, uint32_t, uint32_t, Mul24High>
                           : binary<uint32_t, uint32_t, uint32_t, Mul24>;
    if (type == Type::s32)
      return op == "mad24" ? ternary<int32_t, int32_t, int32_t, int32_t, Mad24>
             : high        ? binary<int32_t, int32_t, int32_t, Mul24High>
                           : binary<int32_t, int32_t, int32_t, Mul24>;
    return nullptr;
  }
  if ((op == "mul" || op == "mad") && !high && !d.has("lo")) return nullptr;
  if ((op == "abs" || op == "neg") && !is_signed(type)) return nullptr;
  return for_integers(type, [&]<class T>() -> Handler {
    if (op == "add") return binary<T, T, T, Add>;
    if (op == "sub") return binary<T, T, T, Sub>;
    if (op == "mul") return high ? binary<T, T, T, MulHigh> : binary<T, T, T, Mul>;
    if (op == "mad") return high ? ternary<T, T, T, T, MadHigh> : ternary<T, T, T, T, Mad>;
    if (op == "div") return binary<T, T, T, Div>;
    if (op == "rem") return binary<T, T, T, Rem>;
    if (op == "min") return binary<T, T, T, Min>;
    if (op == "max") return binary<T, T, T, Max>;
    if (op == "abs") return unary<T, T, Abs>;
    if (op == "neg") return unary<T, T, Neg>;
    if (op == "sad") return ternary<T, T, T, T, Sad>;
    return nullptr;
  });
}

void add_integer(Table& t) { t["dp4a"] = decode_dp4a; }

}  // namespace ptxemu
