// Bits (PTX ISA, "Logic and Shift Instructions"; popc, clz, bfind, brev, bfe, bfi, bmsk, szext, prmt of "Integer Arithmetic Instructions").
#include <algorithm>

#include "select.h"

namespace ptxemu {
namespace {

template <class T> constexpr uint32_t bit_count = sizeof(T) * 8;

struct Not {
  template <class T> static T apply(T a) { return T(~a); }
};
struct Cnot {
  template <class T> static T apply(T a) { return a == 0; }
};
struct ShiftLeft {
  template <class T> static T apply(T a, uint32_t n) { return n >= bit_count<T> ? T(0) : T(std::make_unsigned_t<T>(a) << n); }
};
struct ShiftRight {
  template <class T> static T apply(T a, uint32_t n) {
    const uint32_t last = bit_count<T> - 1;
    if (std::is_signed_v<T>) return T(a >> (n > last ? last : n));
    return n > last ? T(0) : T(a >> n);
  }
};
struct PopulationCount {
  template <class T> static uint32_t apply(T a) { return uint32_t(std::popcount(a)); }
};
struct LeadingZeros {
  template <class T> static uint32_t apply(T a) { return uint32_t(std::countl_zero(a)); }
};
struct Reverse {
  template <class T> static T apply(T a) {
    T r = 0;
    for (uint32_t i = 0; i < bit_count<T>; i++) r |= T(a >> i & 1) << (bit_count<T> - 1 - i);
    return r;
  }
};
template <bool shift_amount> struct FindLast {  // position of the most significant bit that is not the sign
  template <class T> static uint32_t apply(T a) {
    std::make_unsigned_t<T> bits = std::make_unsigned_t<T>(std::is_signed_v<T> && a < 0 ? ~a : a);
    if (!bits) return ~0u;
    uint32_t zeros = uint32_t(std::countl_zero(bits));
    return shift_amount ? zeros : bit_count<T> - 1 - zeros;
  }
};
struct Extract {
  template <class T> static T apply(T a, uint32_t position, uint32_t length) {
    const uint32_t last = bit_count<T> - 1, pos = position & 0xff, len = length & 0xff;
    T sign = !std::is_signed_v<T> || !len ? 0 : T(a >> std::min(pos + len - 1, last) & 1);
    T r = 0;
    for (uint32_t i = 0; i <= last; i++) r |= T((i < len && pos + i <= last ? a >> (pos + i) & 1 : sign)) << i;
    return r;
  }
};
struct Permute {
  static uint32_t apply(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t both = uint64_t(b) << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
      const uint32_t s = selector >> (4 * i);
      uint32_t byte = uint32_t(both >> (8 * (s & 7))) & 0xff;
      if (s & 8) byte = byte & 0x80 ? 0xff : 0;
      r |= byte << (8 * i);
    }
    return r;
  }
};
template <char mode> struct PermuteMode {
  static uint32_t apply(uint32_t a, uint32_t b, uint32_t c) {
    const uint32_t s = c & 3;
    uint32_t selector = 0;
    for (uint32_t i = 0; i < 4; i++) {
      uint32_t pick = mode == 'f'   ? s + i
                      : mode == 'b' ? (s - i) & 7
                      : mode == '8' ? s
                      : mode == 'l' ? std::max(i, s)
                      : mode == 'r' ? std::min(i, s)
                                    : (s & 1) * 2 + (i & 1);
      selector |= pick << (4 * i);
    }
    return Permute::apply(a, b, selector);
  }
};
template <bool left, bool clamp> struct Funnel {
  static uint32_t apply(uint32_t a, uint32_t b, uint32_t c) {
    const uint32_t n = clamp ? std::min(c, 32u) : c & 31;
    const uint64_t both = uint64_t(b) << 32 | a;
    return left ? uint32_t((both << n) >> 32) : uint32_t(both >> n);
  }
};
template <bool clamp> struct Mask {
  static uint32_t apply(uint32_t a, uint32_t b) {
    if (!clamp) a &= 31, b &= 31;
    if (a >= 32 || !b) return 0;
    uint32_t ones = b >= 32 ? ~0u : (1u << b) - 1;
    return ones << a;
  }
};
template <bool clamp> struct Extend {
  template <class T> static T apply(T a, uint32_t n) {
    if (!clamp) n &= 31;
    if (n >= 32) return a;
    if (!n) return 0;
    return T(T(uint32_t(a) << (32 - n)) >> (32 - n));
  }
};

template <class T> void insert(Warp& w, const Instruction& in, uint32_t mask) {
  Slot<T>* d = lanes<Slot<T>>(w, in.to(0));
  const Slot<T>*a = lanes<Slot<T>>(w, in.from(0)), *b = lanes<Slot<T>>(w, in.from(1));
  const uint32_t *c = lanes<uint32_t>(w, in.from(2)), *e = lanes<uint32_t>(w, in.from(3));
  for_lanes(d, mask, [&](int i) {
    const uint32_t pos = c[i] & 0xff, len = e[i] & 0xff;
    if (pos >= bit_count<T> || !len) return b[i];
    Slot<T> ones = len >= bit_count<T> ? ~Slot<T>(0) : (Slot<T>(1) << len) - 1;
    return Slot<T>((b[i] & ~(ones << pos)) | (a[i] & ones) << pos);
  });
}

void lop3(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t* d = lanes<uint32_t>(w, in.to(0));
  const uint32_t *a = lanes<uint32_t>(w, in.from(0)), *b = lanes<uint32_t>(w, in.from(1)), *c = lanes<uint32_t>(w, in.from(2));
  uint32_t keep[8];
  for (int k = 0; k < 8; k++) keep[k] = in.aux >> k & 1 ? ~0u : 0;
  for_lanes(d, mask, [&](int i) {
    const uint32_t x = a[i], y = b[i], z = c[i];
    return (~x & ~y & ~z & keep[0]) | (~x & ~y & z & keep[1]) | (~x & y & ~z & keep[2]) | (~x & y & z & keep[3]) | (x & ~y & ~z & keep[4]) |
           (x & ~y & z & keep[5]) | (x & y & ~z & keep[6]) | (x & y & z & keep[7]);
  });
}

template <char op> void predicates_of(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t a = predicate(w, in.from(0)) ^ (in.aux & 1 ? all_lanes : 0);
  const uint32_t b = op == '~' ? 0 : predicate(w, in.from(1)) ^ (in.aux & 2 ? all_lanes : 0);
  const uint32_t r = op == '&' ? a & b : op == '|' ? a | b : op == '^' ? a ^ b : ~a;
  uint32_t& d = predicate(w, in.to(0));
  d = (d & ~mask) | (r & mask);
}

void decode_logic(Decoder& d) {
  const std::string_view op = d.part(0);
  const bool one = op == "not" || op == "cnot", pred = d.type() == Type::pred;
  const Type type = pred ? Type::pred : d.type();
  d.expect_operands(one ? 2 : 3);
  d.target(0, type);
  if (pred) {
    d.in.aux = uint16_t(d.negated(1) | (!one && d.negated(2)) << 1);
    d.predicate_source(1);
    if (!one) d.predicate_source(2);
    return d.emit(op == "and"   ? predicates_of<'&'>
                  : op == "or"  ? predicates_of<'|'>
                  : op == "xor" ? predicates_of<'^'>
                  : op == "not" ? predicates_of<'~'>
                                : nullptr);
  }
  d.sources(1, one ? 1 : 2, type);
  d.emit(for_bits(type, [&]<class T>() -> Handler {
    return op == "and"   ? binary<T, T, T, And>
           : op == "or"  ? binary<T, T, T, Or>
           : op == "xor" ? binary<T, T, T, Xor>
           : op == "not" ? Handler(unary<T, T, Not>)
                         : Handler(unary<T, T, Cnot>);
  }));
}

void decode_shift(Decoder& d) {
  d.expect_operands(3);
  const bool left = d.part(0) == "shl";
  d.target(0, d.type());
  d.source(1, d.type());
  d.source(2, Type::u32);
  d.emit(for_integers(d.type(),
                      [&]<class T>() -> Handler { return left ? binary<T, T, uint32_t, ShiftLeft> : binary<T, T, uint32_t, ShiftRight>; }));
}

void decode_funnel(Decoder& d) {
  d.expect_operands(4);
  d.target(0, Type::b32);
  d.sources(1, 3, Type::b32);
  const bool clamp = d.has("clamp");
  using U = uint32_t;
  d.emit(d.has("l") ? (clamp ? ternary<U, U, U, U, Funnel<true, true>> : ternary<U, U, U, U, Funnel<true, false>>)
                    : (clamp ? ternary<U, U, U, U, Funnel<false, true>> : ternary<U, U, U, U, Funnel<false, false>>));
}

void decode_lop3(Decoder& d) {
  if (d.parts().size() != 2) d.unknown();  // lop3.or.b32 d|p: not produced by nvcc
  d.expect_operands(5);
  uint64_t table = 0;
  if (!parse_literal(d.operand(4), Type::u32, table)) d.unknown();
  d.target(0, Type::b32);
  d.sources(1, 3, Type::b32);
  d.in.aux = uint16_t(table);
  d.emit(lop3);
}

void decode_count(Decoder& d) {
  const std::string_view op = d.part(0);
  d.expect_operands(2);
  d.target(0, op == "brev" ? d.type() : Type::u32);
  d.source(1, d.type());
  if (op == "bfind") {
    const bool shift = d.has("shiftamt");
    return d.emit(for_32_and_64(
        d.type(), [&]<class T>() -> Handler { return shift ? unary<uint32_t, T, FindLast<true>> : unary<uint32_t, T, FindLast<false>>; }));
  }
  d.emit(bytes(d.type()) < 4 ? nullptr : for_bits(d.type(), [&]<class T>() -> Handler {
    return op == "popc"  ? unary<uint32_t, T, PopulationCount>
           : op == "clz" ? Handler(unary<uint32_t, T, LeadingZeros>)
                         : Handler(unary<T, T, Reverse>);
  }));
}

void decode_field(Decoder& d) {
  const bool extract = d.part(0) == "bfe";
  d.expect_operands(extract ? 4 : 5);
  d.target(0, d.type());
  d.sources(1, extract ? 1 : 2, d.type());
  d.sources(extract ? 2 : 3, 2, Type::u32);
  if (extract) return d.emit(for_32_and_64(d.type(), []<class T>() -> Handler { return ternary<T, T, uint32_t, uint32_t, Extract>; }));
  d.emit(bytes(d.type()) == 8 ? Handler(insert<uint64_t>) : Handler(insert<uint32_t>));
}

void decode_permute(Decoder& d) {
  d.expect_operands(4);
  d.target(0, Type::b32);
  d.sources(1, 3, Type::b32);
  using U = uint32_t;
  d.emit(d.has("f4e")    ? ternary<U, U, U, U, PermuteMode<'f'>>
         : d.has("b4e")  ? ternary<U, U, U, U, PermuteMode<'b'>>
         : d.has("rc8")  ? ternary<U, U, U, U, PermuteMode<'8'>>
         : d.has("ecl")  ? ternary<U, U, U, U, PermuteMode<'l'>>
         : d.has("ecr")  ? ternary<U, U, U, U, PermuteMode<'r'>>
         : d.has("rc16") ? ternary<U, U, U, U, PermuteMode<'6'>>
                         : ternary<U, U, U, U, Permute>);
}

void decode_mask(Decoder& d) {
  d.expect_operands(3);
  const bool clamp = d.has("clamp"), mask = d.part(0) == "bmsk", is_signed_type = d.type() == Type::s32;
  d.target(0, Type::b32);
  d.sources(1, 2, Type::b32);
  using U = uint32_t;
  using S = int32_t;
  d.emit(mask             ? (clamp ? binary<U, U, U, Mask<true>> : binary<U, U, U, Mask<false>>)
         : is_signed_type ? (clamp ? Handler(binary<S, S, U, Extend<true>>) : Handler(binary<S, S, U, Extend<false>>))
                          : (clamp ? binary<U, U, U, Extend<true>> : binary<U, U, U, Extend<false>>));
}

}  // namespace

void add_logic(Table& t) {
  for (auto op : {"and", "or", "xor", "not", "cnot"}) t[op] = decode_logic;
  for (auto op : {"popc", "clz", "brev", "bfind"}) t[op] = decode_count;
  t["shl"] = t["shr"] = decode_shift;
  t["shf"] = decode_funnel;
  t["lop3"] = decode_lop3;
  t["bfe"] = t["bfi"] = decode_field;
  t["prmt"] = decode_permute;
  t["bmsk"] = t["szext"] = decode_mask;
}

}  // namespace ptxemu
