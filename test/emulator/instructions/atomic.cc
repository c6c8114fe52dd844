// atom, red (PTX ISA, "Parallel Synchronization and Communication Instructions"). Lanes go one after the other, in order of lane.
#include "half.h"
#include "memory.h"
#include "select.h"

namespace ptxemu {
namespace {

struct Add {
  template <class T> static T apply(T old, T b, T) { return T(old + b); }
};
struct Exchange {
  template <class T> static T apply(T, T b, T) { return b; }
};
struct CompareSwap {
  template <class T> static T apply(T old, T b, T c) { return old == b ? c : old; }
};
struct Min {
  template <class T> static T apply(T old, T b, T) { return old < b ? old : b; }
};
struct Max {
  template <class T> static T apply(T old, T b, T) { return old > b ? old : b; }
};
struct And {
  template <class T> static T apply(T old, T b, T) { return old & b; }
};
struct Or {
  template <class T> static T apply(T old, T b, T) { return old | b; }
};
struct Xor {
  template <class T> static T apply(T old, T b, T) { return old ^ b; }
};
struct Increment {
  template <class T> static T apply(T old, T b, T) { return old >= b ? 0 : old + 1; }
};
struct Decrement {
  template <class T> static T apply(T old, T b, T) { return old == 0 || old > b ? b : old - 1; }
};
template <bool bf16> struct AddPair {
  static uint32_t half(uint32_t a, uint32_t b) {
    return bf16 ? bf16_of(float_of_bf16(a & 0xffff) + float_of_bf16(b & 0xffff)) : f16_of(float_of_f16(a) + float_of_f16(b));
  }
  static uint32_t apply(uint32_t old, uint32_t b, uint32_t) { return half(old, b) | half(old >> 16, b >> 16) << 16; }
};
template <bool bf16> struct AddHalf {
  static uint16_t apply(uint16_t old, uint16_t b, uint16_t) { return uint16_t(AddPair<bf16>::half(old, b)); }
};

constexpr uint16_t releases = 2;

template <class T, class F, Space space, bool result> void atomic(Warp& w, const Instruction& in, uint32_t mask) {
  Block& b = *w.block;
  Addresses a;
  read_addresses(w, in, 0, a);
  b.counters->atomics++;
  const bool has_third = in.sources > 2;
  each_active(mask, [&](int lane) {
    uint64_t address = a.of[lane];
    const bool shared = space == Space::shared || (space == Space::generic && (address & window_mask) == shared_window);
    if (shared && space == Space::generic) address &= ~window_mask;
    std::unique_lock<std::mutex> lock(b.common->atomics, std::defer_lock);
    T* p;
    if (shared) {
      p = reinterpret_cast<T*>(shared_bytes(w, address, sizeof(T), lane));
      if (address % sizeof(T)) fail_misaligned(w, "shared", address, sizeof(T), lane);
      check_shared<Access::atomic>(w, uint32_t(address), sizeof(T), lane);
    } else {
      bool device;
      p = reinterpret_cast<T*>(global_bytes(w, address, sizeof(T), lane, device));
      if (address % sizeof(T)) fail_misaligned(w, "global", address, sizeof(T), lane);
      if (b.common->concurrent) lock.lock();
      if (device) {
        needs_all_blocks(w, lane);
        if (in.aux & releases) b.fenced = true;
        meet_at(w, address, true);
        check_global_precisely(w, address, sizeof(T), lane, Access::atomic);
      }
    }
    const T old = *p;
    const T x = T(lanes<Slot<T>>(w, in.from(1))[lane]), y = has_third ? T(lanes<Slot<T>>(w, in.from(2))[lane]) : T();
    if constexpr (std::is_same_v<T, float> && std::is_same_v<F, Add>)
      *p = shared ? old + x : flush(flush(old) + flush(x));  // as the ISA says
    else *p = F::apply(old, x, y);
    if constexpr (result) lanes<Slot<T>>(w, in.to(0))[lane] = widen<T>(old);
  });
}

template <class T, class F> Handler in_space(Space space, bool result) {
  if (space == Space::shared) return result ? atomic<T, F, Space::shared, true> : atomic<T, F, Space::shared, false>;
  if (space == Space::global) return result ? atomic<T, F, Space::global, true> : atomic<T, F, Space::global, false>;
  if (space == Space::generic) return result ? atomic<T, F, Space::generic, true> : atomic<T, F, Space::generic, false>;
  return nullptr;
}

Handler pick(Decoder& d, Type type, Space space, bool result) {
  if (d.has("exch") || d.has("cas")) {
    const bool swap = d.has("cas");
    return for_bits(
        type, [&]<class T>() -> Handler { return swap ? in_space<T, CompareSwap>(space, result) : in_space<T, Exchange>(space, result); });
  }
  if (d.has("add")) {
    if (type == Type::f32) return in_space<float, Add>(space, result);
    if (type == Type::f64) return in_space<double, Add>(space, result);
    if (type == Type::f16x2) return in_space<uint32_t, AddPair<false>>(space, result);
    if (type == Type::bf16x2) return in_space<uint32_t, AddPair<true>>(space, result);
    if (type == Type::f16) return in_space<uint16_t, AddHalf<false>>(space, result);
    if (type == Type::bf16) return in_space<uint16_t, AddHalf<true>>(space, result);
  }
  if (is_float(type)) return nullptr;
  if (d.has("inc") || d.has("dec"))
    return type != Type::u32 ? nullptr
           : d.has("inc")    ? in_space<uint32_t, Increment>(space, result)
                             : in_space<uint32_t, Decrement>(space, result);
  return for_32_and_64(type, [&]<class T>() -> Handler {
    return d.has("add")   ? in_space<T, Add>(space, result)
           : d.has("min") ? in_space<T, Min>(space, result)
           : d.has("max") ? in_space<T, Max>(space, result)
           : d.has("and") ? in_space<T, And>(space, result)
           : d.has("or")  ? in_space<T, Or>(space, result)
           : d.has("xor") ? in_space<T, Xor>(space, result)
                          : nullptr;
  });
}

void decode(Decoder& d) {
  const bool result = d.part(0) == "atom", swap = d.has("cas");
  const Type type = d.type();
  d.expect_operands(size_t(2 + result + swap));
  if (result) d.target(0, type);
  const Space space = d.address(d.operand(result), d.space());
  if (d.has("release") || d.has("acq_rel")) d.in.aux |= releases;
  d.sources(size_t(1 + result), size_t(1 + swap), type);
  if (space == Space::shared || space == Space::generic) d.note_shared_access(bytes(type));
  d.emit(pick(d, type, space, result));
}

}  // namespace

void add_atomic(Table& t) { t["atom"] = t["red"] = decode; }

}  // namespace ptxemu
