// shfl.sync, vote.sync, match.sync, redux.sync, activemask, elect.sync (PTX ISA, "Data Movement", "Parallel Synchronization"). The
// scheduler has seen to it that the lanes named by the member mask are here.
#include "select.h"

namespace ptxemu {
namespace {

enum Shuffle : int32_t { up, down, butterfly, index };

void shuffle(Warp& w, const Instruction& in, uint32_t mask) {
  alignas(64) uint32_t value[32];
  std::memcpy(value, lanes<uint32_t>(w, in.from(0)), sizeof value);
  const uint32_t *b = lanes<uint32_t>(w, in.from(1)), *c = lanes<uint32_t>(w, in.from(2));
  uint32_t* d = lanes<uint32_t>(w, in.to(0));
  uint32_t in_range = 0;
  each_active(mask, [&](int lane) {
    const int bval = int(b[lane] & 31), cval = int(c[lane] & 31), segment = int(c[lane] >> 8 & 31);
    const int most = (lane & segment) | (cval & ~segment), least = lane & segment;
    int from = 0;
    bool p = false;
    switch (in.target) {
      case up: from = lane - bval, p = from >= most; break;
      case down: from = lane + bval, p = from <= most; break;
      case butterfly: from = lane ^ bval, p = from <= most; break;
      case index: from = least | (bval & ~segment), p = from <= most; break;
    }
    if (!p) from = lane;
    else in_range |= 1u << lane;
    if (!(mask >> from & 1))
      fail(w, ErrorKind::divergence, "shfl.sync reads lane " + std::to_string(from) + ", which does not take part", lane);
    d[lane] = value[from];
  });
  if (in.targets == 2) predicate(w, in.to(1)) = (predicate(w, in.to(1)) & ~mask) | in_range;
}

enum Vote : int32_t { all, any, uniform, ballot };

template <int vote> void cast_vote(Warp& w, const Instruction& in, uint32_t mask) {
  const uint32_t p = predicate(w, in.from(0)) ^ (in.offset ? all_lanes : 0);
  // Groups with different member masks may meet at one place: each counts for itself.
  const uint32_t* members = lanes<uint32_t>(w, in.from(1));
  each_active(mask, [&](int lane) {
    const uint32_t of = members[lane] & w.alive, yes = p & of;
    if (vote == ballot) {
      lanes<uint32_t>(w, in.to(0))[lane] = yes;
    } else {
      const bool r = vote == all ? yes == of : vote == any ? yes != 0 : yes == 0 || yes == of;
      uint32_t& d = predicate(w, in.to(0));
      d = (d & ~(1u << lane)) | uint32_t(r) << lane;
    }
  });
}

template <class T, bool all_same> void match(Warp& w, const Instruction& in, uint32_t mask) {
  const T* a = lanes<T>(w, in.from(0));
  const uint32_t* members = lanes<uint32_t>(w, in.from(1));
  alignas(64) uint32_t r[32];
  uint32_t p = 0;
  each_active(mask, [&](int lane) {
    const uint32_t of = members[lane] & w.alive;
    r[lane] = 0;
    each_active(of, [&](int other) { r[lane] |= uint32_t(a[other] == a[lane]) << other; });
    if (all_same) r[lane] = r[lane] == of ? of : 0;
    p |= uint32_t(r[lane] != 0) << lane;
  });
  each_active(mask, [&](int lane) { lanes<uint32_t>(w, in.to(0))[lane] = r[lane]; });
  if (in.targets == 2) predicate(w, in.to(1)) = (predicate(w, in.to(1)) & ~mask) | p;
}

struct Add {
  template <class T> static T apply(T a, T b) { return T(std::make_unsigned_t<T>(a) + std::make_unsigned_t<T>(b)); }
};
struct Min {
  template <class T> static T apply(T a, T b) { return a < b ? a : b; }
};
struct Max {
  template <class T> static T apply(T a, T b) { return a > b ? a : b; }
};

template <class T, class F> void reduce(Warp& w, const Instruction& in, uint32_t mask) {
  alignas(64) uint32_t a[32];
  std::memcpy(a, lanes<uint32_t>(w, in.from(0)), sizeof a);
  const uint32_t* members = lanes<uint32_t>(w, in.from(1));
  each_active(mask, [&](int lane) {
    uint32_t of = members[lane] & w.alive;
    T r = T(a[std::countr_zero(of)]);
    each_active(of & (of - 1), [&](int other) { r = F::apply(r, T(a[other])); });
    lanes<uint32_t>(w, in.to(0))[lane] = uint32_t(r);
  });
}

void active_mask(Warp& w, const Instruction& in, uint32_t mask) {
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int) { return mask; });
}

void elect(Warp& w, const Instruction& in, uint32_t mask) {
  const int leader = std::countr_zero(mask);
  for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int) { return uint32_t(leader); });
  predicate(w, in.to(1)) = (predicate(w, in.to(1)) & ~mask) | 1u << leader;
}

void emit(Decoder& d, Handler handler, int member_mask) {
  if (!d.has("sync")) d.unknown();
  d.in.flow = Flow::collective;
  d.in.member_mask = uint8_t(member_mask);
  d.emit(handler);
}

// d|p: the second target.
void targets(Decoder& d, Type type) {
  const size_t bar = d.operand(0).find('|');
  d.target(trim(d.operand(0).substr(0, bar)), type);
  if (bar != std::string_view::npos) d.target(trim(d.operand(0).substr(bar + 1)), Type::pred);
}

void decode_shuffle(Decoder& d) {
  d.expect_operands(5);
  targets(d, Type::b32);
  d.sources(1, 4, Type::b32);
  d.in.target = d.has("up") ? up : d.has("down") ? down : d.has("bfly") ? butterfly : index;
  emit(d, shuffle, 3);
}

void decode_vote(Decoder& d) {
  d.expect_operands(3);
  d.target(0, d.has("ballot") ? Type::b32 : Type::pred);
  d.in.offset = d.negated(1);
  d.predicate_source(1);
  d.source(2, Type::b32);
  emit(d,
       d.has("ballot") ? cast_vote<ballot>
       : d.has("any")  ? cast_vote<any>
       : d.has("all")  ? cast_vote<all>
       : d.has("uni")  ? cast_vote<uniform>
                       : nullptr,
       1);
}

void decode_match(Decoder& d) {
  d.expect_operands(3);
  const bool same = d.has("all"), wide = bytes(d.type()) == 8;
  targets(d, Type::b32);
  d.source(1, d.type());
  d.source(2, Type::b32);
  emit(d, wide ? (same ? match<uint64_t, true> : match<uint64_t, false>) : same ? match<uint32_t, true> : match<uint32_t, false>, 1);
}

void decode_reduce(Decoder& d) {
  d.expect_operands(3);
  d.target(0, d.type());
  d.source(1, d.type());
  d.source(2, Type::b32);
  const bool is_signed_type = d.type() == Type::s32;
  if (is_float(d.type())) d.unknown();
  using U = uint32_t;
  using S = int32_t;
  emit(d,
       d.has("add")   ? reduce<U, Add>
       : d.has("min") ? (is_signed_type ? Handler(reduce<S, Min>) : Handler(reduce<U, Min>))
       : d.has("max") ? (is_signed_type ? Handler(reduce<S, Max>) : Handler(reduce<U, Max>))
       : d.has("and") ? reduce<U, And>
       : d.has("or")  ? reduce<U, Or>
       : d.has("xor") ? reduce<U, Xor>
                      : nullptr,
       1);
}

void decode_active(Decoder& d) {
  d.target(0, Type::b32);
  d.emit(active_mask);
}

void decode_elect(Decoder& d) {
  d.expect_operands(2);
  targets(d, Type::b32);
  if (d.in.targets != 2) d.unknown();
  d.source(1, Type::b32);
  emit(d, elect, 0);
}

}  // namespace

void add_collective(Table& t) {
  t["shfl"] = decode_shuffle;
  t["vote"] = decode_vote;
  t["match"] = decode_match;
  t["redux"] = decode_reduce;
  t["activemask"] = decode_active;
  t["elect"] = decode_elect;
}

}  // namespace ptxemu
