// mov, packing and unpacking, special registers that change, cvta, isspacep (PTX ISA, "Data Movement and Conversion Instructions").
#include <chrono>

#include "select.h"

namespace ptxemu {
namespace {

struct Same {
  template <class T> static T apply(T a) { return a; }
};

void move_predicate(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t& d = predicate(w, in.to(0));
  d = (d & ~mask) | (predicate(w, in.from(0)) & mask);
}

// {a, b} of half the width: D = wide, H = half as it lies in a register.
template <class D, class H, int parts> void pack(Warp& w, const Instruction& in, uint32_t mask) {
  constexpr int bits = int(sizeof(D)) * 8 / parts;
  const Slot<H>* from[parts];
  for (int k = 0; k < parts; k++) from[k] = lanes<Slot<H>>(w, in.from(k));
  for_lanes(lanes<Slot<D>>(w, in.to(0)), mask, [&](int i) {
    Slot<D> r = 0;
    for (int k = 0; k < parts; k++) r |= Slot<D>(H(from[k][i])) << (bits * k);
    return r;
  });
}

template <class S, class H, int parts> void unpack(Warp& w, const Instruction& in, uint32_t mask) {
  constexpr int bits = int(sizeof(S)) * 8 / parts;
  alignas(64) Slot<S> a[32];  // a target may be the source
  std::memcpy(a, lanes<Slot<S>>(w, in.from(0)), sizeof a);
  for (int k = 0; k < parts; k++) for_lanes(lanes<Slot<H>>(w, in.to(k)), mask, [&](int i) { return Slot<H>(H(a[i] >> (bits * k))); });
}

Type part_type(size_t bytes) { return bytes == 4 ? Type::b32 : bytes == 2 ? Type::b16 : Type::b8; }

template <bool wide, bool nanoseconds, bool high> void clock(Warp& w, const Instruction& in, uint32_t mask) {
  uint64_t now = w.block->executed + uint64_t(w.current - w.block->program->code.data());
  if (nanoseconds) now = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count());
  if (high) now >>= 32;
  if (wide) for_lanes(lanes<uint64_t>(w, in.to(0)), mask, [&](int) { return now; });
  else for_lanes(lanes<uint32_t>(w, in.to(0)), mask, [&](int) { return uint32_t(now); });
}

bool decode_clock(Decoder& d) {
  const std::string_view name = d.operand(1);
  Handler h = name == "%clock"            ? clock<false, false, false>
              : name == "%clock_hi"       ? clock<false, false, true>
              : name == "%clock64"        ? clock<true, false, false>
              : name == "%globaltimer"    ? clock<true, true, false>
              : name == "%globaltimer_lo" ? clock<false, true, false>
              : name == "%globaltimer_hi" ? clock<false, true, true>
                                          : nullptr;
  if (!h) return false;
  d.target(0, d.type());
  d.emit(h);
  return true;
}

void decode_move(Decoder& d) {
  d.expect_operands(2);
  if (d.type() == Type::pred) {
    d.target(0, Type::pred);
    d.source(1, Type::pred);
    return d.emit(move_predicate);
  }
  const Type t = d.type();
  const bool packs = d.operand(1).starts_with('{'), unpacks = d.operand(0).starts_with('{');
  if (packs || unpacks) {
    auto parts = Decoder::elements(d.operand(packs ? 1 : 0));
    const size_t n = parts.size();
    const Type part = part_type(bytes(t) / n);
    if (packs) {
      d.target(0, t);
      for (auto p : parts) d.source(p, part);
    } else {
      for (auto p : parts) d.target(p, part);
      d.source(1, t);
    }
    Handler h = nullptr;
    if (bytes(t) == 8 && n == 2) h = packs ? Handler(pack<uint64_t, uint32_t, 2>) : Handler(unpack<uint64_t, uint32_t, 2>);
    if (bytes(t) == 8 && n == 4) h = packs ? Handler(pack<uint64_t, uint16_t, 4>) : Handler(unpack<uint64_t, uint16_t, 4>);
    if (bytes(t) == 4 && n == 2) h = packs ? Handler(pack<uint32_t, uint16_t, 2>) : Handler(unpack<uint32_t, uint16_t, 2>);
    if (bytes(t) == 4 && n == 4) h = packs ? Handler(pack<uint32_t, uint8_t, 4>) : Handler(unpack<uint32_t, uint8_t, 4>);
    if (bytes(t) == 2 && n == 2) h = packs ? Handler(pack<uint16_t, uint8_t, 2>) : Handler(unpack<uint16_t, uint8_t, 2>);
    return d.emit(h);
  }
  if (d.is_special(d.operand(1)) && decode_clock(d)) return;
  d.target(0, t);
  d.source(1, t);
  d.emit(for_bits(t, []<class T>() -> Handler { return unary<T, T, Same>; }));
}

// Adds or takes away the window of a state space; global addresses are generic ones.
template <bool to_space> void convert_address(Warp& w, const Instruction& in, uint32_t mask) {
  const uint64_t *a = lanes<uint64_t>(w, in.from(0)), window = uint64_t(in.offset);
  for_lanes(lanes<uint64_t>(w, in.to(0)), mask, [&](int i) { return to_space ? a[i] - window : a[i] + window; });
}

uint64_t window_of(Space space) {
  return space == Space::shared ? shared_window : space == Space::local ? local_window : space == Space::param ? param_window : 0;
}

void decode_cvta(Decoder& d) {
  d.expect_operands(2);
  if (d.type() != Type::u64) d.unknown();
  d.target(0, Type::u64);
  d.source(1, Type::u64);
  d.in.offset = int64_t(window_of(d.space()));
  d.emit(d.has("to") ? convert_address<true> : convert_address<false>);
}

void is_in_space(Warp& w, const Instruction& in, uint32_t mask) {
  const uint64_t *a = lanes<uint64_t>(w, in.from(0)), window = uint64_t(in.offset);
  const uint32_t r = gather_mask([&](int i) {
    const uint64_t of = a[i] & window_mask;
    return window ? of == window : of != shared_window && of != local_window && of != param_window;
  });
  uint32_t& d = predicate(w, in.to(0));
  d = (d & ~mask) | (r & mask);
}

void decode_isspacep(Decoder& d) {
  d.expect_operands(2);
  d.target(0, Type::pred);
  d.source(1, Type::u64);
  d.in.offset = int64_t(window_of(d.space()));
  d.emit(is_in_space);
}

}  // namespace

void add_move(Table& t) {
  t["mov"] = decode_move;
  t["cvta"] = decode_cvta;
  t["isspacep"] = decode_isspacep;
}

}  // namespace ptxemu
