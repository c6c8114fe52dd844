// setp, set, selp, slct (PTX ISA, "Comparison and Selection Instructions").
#include "half.h"
#include "select.h"

namespace ptxemu {
namespace {

enum Comparison { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan_, comparisons };

template <int c, class T> inline bool compare(T a, T b) {
  if constexpr (c == eq) return a == b;
  if constexpr (c == ne) return (a < b) | (a > b);  // ordered for floats; the same as != for integers
  if constexpr (c == lt) return a < b;
  if constexpr (c == le) return a <= b;
  if constexpr (c == gt) return a > b;
  if constexpr (c == ge) return a >= b;
  if constexpr (c == equ) return !((a < b) | (a > b));
  if constexpr (c == neu) return !(a == b);
  if constexpr (c == ltu) return !(a >= b);
  if constexpr (c == leu) return !(a > b);
  if constexpr (c == gtu) return !(a <= b);
  if constexpr (c == geu) return !(a < b);
  if constexpr (c == num) return (a == a) & (b == b);
  return (a != a) | (b != b);
}

enum Flags : uint16_t { ftz = 1, both = 2, negated = 4, op_and = 8, op_or = 16, op_xor = 32, as_float = 64, wide_result = 128 };

template <int c, class T> uint32_t compare_lanes(Warp& w, const Instruction& in) {
  if constexpr (std::is_same_v<T, half_bits> || std::is_same_v<T, bfloat_bits>) {
    alignas(32) float a[32], b[32];
    widen_half<std::is_same_v<T, bfloat_bits>>(lanes<uint32_t>(w, in.from(0)), 0, a);
    widen_half<std::is_same_v<T, bfloat_bits>>(lanes<uint32_t>(w, in.from(1)), 0, b);
    return gather_mask([&](int i) { return compare<c>(a[i], b[i]); });
  } else {
    const Slot<T>*a = lanes<Slot<T>>(w, in.from(0)), *b = lanes<Slot<T>>(w, in.from(1));
    if constexpr (std::is_same_v<T, float>)
      if (in.aux & ftz) return gather_mask([&](int i) { return compare<c>(flush(a[i]), flush(b[i])); });
    return gather_mask([&](int i) { return compare<c>(narrow<T>(a[i]), narrow<T>(b[i])); });
  }
}

inline uint32_t combine(Warp& w, const Instruction& in, uint32_t r) {
  if (!(in.aux & (op_and | op_or | op_xor))) return r;
  uint32_t c = predicate(w, in.from(2));
  if (in.aux & negated) c = ~c;
  return in.aux & op_and ? r & c : in.aux & op_or ? r | c : r ^ c;
}

template <int c, class T> void set_predicate(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t plain = compare_lanes<c, T>(w, in), r = combine(w, in, plain), q = in.aux & both ? combine(w, in, ~plain) : 0;
  uint32_t& d = predicate(w, in.to(0));
  d = (d & ~mask) | (r & mask);
  if (in.aux & both) {
    uint32_t& other = predicate(w, in.to(1));
    other = (other & ~mask) | (q & mask);
  }
}

template <int c, class T> void set_value(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t r = combine(w, in, compare_lanes<c, T>(w, in));
  const uint32_t yes = uint32_t(in.offset);
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return r >> i & 1 ? yes : 0u; });
}

// set.f16x2: both halves compared, both set.
template <int c, bool bf16, bool as_predicates> void set_pair(Warp& w, const Instruction& in, uint32_t mask) {
  alignas(32) float a[32], b[32];
  uint32_t r[2];
  for (int part = 0; part < 2; part++) {
    widen_half<bf16>(lanes<uint32_t>(w, in.from(0)), part, a);
    widen_half<bf16>(lanes<uint32_t>(w, in.from(1)), part, b);
    r[part] = combine(w, in, gather_mask([&](int i) { return compare<c>(a[i], b[i]); }));
  }
  if (as_predicates) {
    for (int part = 0; part < 2; part++) predicate(w, in.to(part)) = (predicate(w, in.to(part)) & ~mask) | (r[part] & mask);
    return;
  }
  const uint32_t yes = uint32_t(in.offset);
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int i) { return (r[0] >> i & 1 ? yes : 0u) | (r[1] >> i & 1 ? yes << 16 : 0u); });
}

template <class T, bool value, int... c> Handler pick(int comparison, std::integer_sequence<int, c...>) {
  Handler h = nullptr;
  ((comparison == c ? void(h = value ? set_value<c, T> : set_predicate<c, T>) : void()), ...);
  return h;
}
template <bool bf16, bool as_predicates, int... c> Handler pick_pair(int comparison, std::integer_sequence<int, c...>) {
  Handler h = nullptr;
  ((comparison == c ? void(h = set_pair<c, bf16, as_predicates>) : void()), ...);
  return h;
}

template <bool value> Handler handler_of(Type type, int comparison) {
  using Integers = std::make_integer_sequence<int, 6>;
  using Floats = std::make_integer_sequence<int, comparisons>;
  switch (type) {
    case Type::f32: return pick<float, value>(comparison, Floats());
    case Type::f64: return pick<double, value>(comparison, Floats());
    case Type::f16: return pick<half_bits, value>(comparison, Floats());
    case Type::bf16: return pick<bfloat_bits, value>(comparison, Floats());
    case Type::f16x2: return pick_pair<false, !value>(comparison, Floats());
    case Type::bf16x2: return pick_pair<true, !value>(comparison, Floats());
    default: return for_integers(type, [&]<class T>() -> Handler { return pick<T, value>(comparison, Integers()); });
  }
}

int comparison_of(Decoder& d) {
  static constexpr std::pair<std::string_view, int> names[] = {
      {"eq", eq}, {"ne", ne},   {"lt", lt},   {"le", le},   {"gt", gt},   {"ge", ge},   {"lo", lt},   {"ls", le},   {"hi", gt},
      {"hs", ge}, {"equ", equ}, {"neu", neu}, {"ltu", ltu}, {"leu", leu}, {"gtu", gtu}, {"geu", geu}, {"num", num}, {"nan", nan_}};
  for (auto& [name, c] : names)
    if (d.part(1) == name) return c;
  d.unknown();
}

void decode_compare(Decoder& d) {
  const bool value = d.part(0) == "set";
  const int comparison = comparison_of(d);
  const Type type = d.type();
  uint16_t flags =
      uint16_t((d.has("ftz") ? ftz : 0) | (d.has("and") ? op_and : 0) | (d.has("or") ? op_or : 0) | (d.has("xor") ? op_xor : 0));
  const bool combines = flags & (op_and | op_or | op_xor);
  d.expect_operands(combines ? 4 : 3);
  if (value) {
    const Type to = d.type_at(1);
    d.target(0, to);
    const bool pair = type == Type::f16x2 || type == Type::bf16x2;
    d.in.offset = to == Type::f32                          ? 0x3f800000
                  : to == Type::f16 || to == Type::f16x2   ? 0x3c00
                  : to == Type::bf16 || to == Type::bf16x2 ? 0x3f80
                  : pair || bytes(to) == 2                 ? 0xffff
                                                           : 0xffffffff;
    if (bytes(to) > 4) d.unknown();
  } else {
    size_t bar = d.operand(0).find('|');
    d.target(trim(d.operand(0).substr(0, bar)), Type::pred);
    if ((type == Type::f16x2 || type == Type::bf16x2) && bar == std::string_view::npos) d.unknown();
    if (bar != std::string_view::npos) {
      d.target(trim(d.operand(0).substr(bar + 1)), Type::pred);
      flags |= both;
    }
  }
  d.sources(1, 2, type);
  if (combines) {
    if (d.negated(3)) flags |= negated;
    d.predicate_source(3);
  }
  d.in.aux = flags;
  d.emit(value ? handler_of<true>(type, comparison) : handler_of<false>(type, comparison));
}

template <class T> void select_by_predicate(Warp& w, const Instruction& in, uint32_t mask) {
  const T *a = lanes<T>(w, in.from(0)), *b = lanes<T>(w, in.from(1));
  const uint32_t p = predicate(w, in.from(2)) ^ (in.aux ? all_lanes : 0);
  for_lanes(lanes<T>(w, in.to(0)), mask, [&](int i) { return p >> i & 1 ? a[i] : b[i]; });
}

void decode_selp(Decoder& d) {
  d.expect_operands(4);
  d.target(0, d.type());
  d.sources(1, 2, d.type());
  d.in.aux = d.negated(3);
  d.predicate_source(3);
  d.emit(bytes(d.type()) == 8 ? select_by_predicate<uint64_t> : select_by_predicate<uint32_t>);
}

template <class T, class C> void select_by_sign(Warp& w, const Instruction& in, uint32_t mask) {
  const T *a = lanes<T>(w, in.from(0)), *b = lanes<T>(w, in.from(1));
  const C* c = lanes<C>(w, in.from(2));
  const bool flushed = in.aux;
  for_lanes(lanes<T>(w, in.to(0)), mask, [&](int i) {
    if constexpr (std::is_same_v<C, float>)
      if (flushed) return flush(c[i]) >= 0 ? a[i] : b[i];
    return c[i] >= 0 ? a[i] : b[i];
  });
}

void decode_slct(Decoder& d) {
  d.expect_operands(4);
  const Type type = d.type_at(1), by = d.type();
  d.target(0, type);
  d.sources(1, 2, type);
  d.source(3, by);
  d.in.aux = d.has("ftz");
  const bool wide = bytes(type) == 8;
  d.emit(by == Type::f32   ? (wide ? select_by_sign<uint64_t, float> : select_by_sign<uint32_t, float>)
         : by == Type::s32 ? (wide ? select_by_sign<uint64_t, int32_t> : select_by_sign<uint32_t, int32_t>)
                           : nullptr);
}

}  // namespace

void add_compare(Table& t) {
  t["setp"] = t["set"] = decode_compare;
  t["selp"] = decode_selp;
  t["slct"] = decode_slct;
}

}  // namespace ptxemu
