// How a handler reads and writes lanes. Every handler is one loop over 32 lanes that the compiler turns into vector code; with a
// partial mask the loop still runs over all of them and only the active ones are stored.
#pragma once
#include <bit>
#include <type_traits>

#include "../warp/warp.h"

namespace ptxemu {

struct half_bits { uint16_t bits; };
struct bfloat_bits { uint16_t bits; };

template <class T> using Slot =
    std::conditional_t<std::is_same_v<T, float>, float,
                       std::conditional_t<std::is_same_v<T, double>, double, std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>>>;

template <class T> inline T* lanes(Warp& w, uint32_t operand) {
  return reinterpret_cast<T*>(w.bank[operand >> 30] + (operand & 0x3fffffff));
}
inline uint32_t& predicate(Warp& w, uint32_t operand) { return *lanes<uint32_t>(w, operand); }

template <class T> inline T narrow(Slot<T> slot) {
  if constexpr (std::is_floating_point_v<T>) return slot;
  else return static_cast<T>(slot);
}
template <class T> inline Slot<T> widen(T value) {
  if constexpr (std::is_floating_point_v<T>) return value;
  else if constexpr (sizeof(T) < 4) return static_cast<std::make_unsigned_t<T>>(value);
  else return static_cast<Slot<T>>(value);
}

// d[lane] = f(lane) for the active lanes.
template <class D, class F> inline __attribute__((always_inline)) void for_lanes(D* d, uint32_t mask, F&& f) {
  if (mask == all_lanes) [[likely]] {
#pragma GCC ivdep
    for (int i = 0; i < 32; i++) d[i] = f(i);
  } else {
    alignas(64) D r[32];
    for (int i = 0; i < 32; i++) r[i] = f(i);
    for (int i = 0; i < 32; i++) d[i] = mask >> i & 1 ? r[i] : d[i];
  }
}

// A mask of the lanes where f(lane) holds.
template <class F> inline __attribute__((always_inline)) uint32_t gather_mask(F&& f) {
  alignas(32) uint32_t r[32];
  for (int i = 0; i < 32; i++) r[i] = f(i) ? 1u << i : 0u;
  uint32_t m = 0;
  for (int i = 0; i < 32; i++) m |= r[i];
  return m;
}

template <class F> inline void each_active(uint32_t mask, F&& f) {
  for (uint32_t rest = mask; rest; rest &= rest - 1) f(std::countr_zero(rest));
}

// Of logic.cc and collective.cc.
struct And {
  template <class T> static T apply(T a, T b) { return a & b; }
};
struct Or {
  template <class T> static T apply(T a, T b) { return a | b; }
};
struct Xor {
  template <class T> static T apply(T a, T b) { return a ^ b; }
};

template <class D, class A, class F> void unary(Warp& w, const Instruction& in, uint32_t mask) {
  Slot<D>* d = lanes<Slot<D>>(w, in.to(0));
  const Slot<A>* a = lanes<Slot<A>>(w, in.from(0));
  for_lanes(d, mask, [&](int i) { return widen<D>(F::apply(narrow<A>(a[i]))); });
}
template <class D, class A, class B, class F> void binary(Warp& w, const Instruction& in, uint32_t mask) {
  Slot<D>* d = lanes<Slot<D>>(w, in.to(0));
  const Slot<A>* a = lanes<Slot<A>>(w, in.from(0));
  const Slot<B>* b = lanes<Slot<B>>(w, in.from(1));
  for_lanes(d, mask, [&](int i) { return widen<D>(F::apply(narrow<A>(a[i]), narrow<B>(b[i]))); });
}
template <class D, class A, class B, class C, class F> void ternary(Warp& w, const Instruction& in, uint32_t mask) {
  Slot<D>* d = lanes<Slot<D>>(w, in.to(0));
  const Slot<A>* a = lanes<Slot<A>>(w, in.from(0));
  const Slot<B>* b = lanes<Slot<B>>(w, in.from(1));
  const Slot<C>* c = lanes<Slot<C>>(w, in.from(2));
  for_lanes(d, mask, [&](int i) { return widen<D>(F::apply(narrow<A>(a[i]), narrow<B>(b[i]), narrow<C>(c[i]))); });
}

}  // namespace ptxemu
