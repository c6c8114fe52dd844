// Elements of 1, 2, 4 or 8 bytes between the registers of lanes and memory that has been checked (PTX ISA, "Operand Size Exceeding
// Instruction-Type Size").
#pragma once
#include "memory.h"

namespace ptxemu {

enum AccessFlags : uint16_t { wide_base = 1, sign_extend = 2, strong = 4, into_wide = 8, releases = 16 };

template <int width> using Element =
    std::conditional_t<width == 8, uint64_t, std::conditional_t<width == 4, uint32_t, std::conditional_t<width == 2, uint16_t, uint8_t>>>;
template <int width> using Register = std::conditional_t<width == 8, uint64_t, uint32_t>;

// One lane: element k of the vector to or from its register.
template <int width> inline void load_element(Warp& w, const Instruction& in, int k, int lane, const void* from) {
  Element<width> e;
  std::memcpy(&e, from, width);
  if constexpr (width < 4) {
    using S = std::conditional_t<width == 2, int16_t, int8_t>;
    if (in.aux & into_wide) lanes<uint64_t>(w, in.to(k))[lane] = in.aux & sign_extend ? uint64_t(int64_t(S(e))) : e;
    else lanes<uint32_t>(w, in.to(k))[lane] = in.aux & sign_extend ? uint32_t(int32_t(S(e))) : e;
  } else {
    if (width == 4 && in.aux & into_wide) lanes<uint64_t>(w, in.to(k))[lane] = in.aux & sign_extend ? uint64_t(int64_t(int32_t(e))) : e;
    else lanes<Register<width>>(w, in.to(k))[lane] = Register<width>(e);
  }
}
template <int width> inline void store_element(Warp& w, const Instruction& in, int k, int lane, void* to) {
  const Element<width> e =
      Element<width>(in.aux & into_wide ? lanes<uint64_t>(w, in.from(1 + k))[lane] : lanes<Register<width>>(w, in.from(1 + k))[lane]);
  std::memcpy(to, &e, width);
}
template <int width, int count, bool store> inline void move_elements(Warp& w, const Instruction& in, int lane, void* at) {
  for (int k = 0; k < count; k++) {
    char* p = static_cast<char*>(at) + k * width;
    if constexpr (store) store_element<width>(w, in, k, lane, p);
    else load_element<width>(w, in, k, lane, p);
  }
}

// A run of lanes; where it is the whole warp, with the loop over lanes inside the one over elements.
template <int width, int count, bool store> inline void move_run(Warp& w, const Instruction& in, int first, int n, void* at) {
  auto* memory = static_cast<Element<width>*>(at);
  if (n < 32 || in.aux & (sign_extend | into_wide)) {
    for (int i = 0; i < n; i++) move_elements<width, count, store>(w, in, first + i, memory + i * count);
    return;
  }
  for (int k = 0; k < count; k++) {
    if constexpr (store) {
      const auto* r = lanes<Register<width>>(w, in.from(1 + k));
      for (int lane = 0; lane < 32; lane++) memory[lane * count + k] = Element<width>(r[lane]);
    } else {
      auto* r = lanes<Register<width>>(w, in.to(k));
      for (int lane = 0; lane < 32; lane++) r[lane] = memory[lane * count + k];
    }
  }
}

// All active lanes read the same address.
template <int width, int count> inline void move_to_all(Warp& w, const Instruction& in, uint32_t mask, const void* at) {
  const int first = std::countr_zero(mask);
  move_elements<width, count, false>(w, in, first, const_cast<void*>(at));
  for (int k = 0; k < count; k++) {
    if (width == 8 || in.aux & into_wide) {
      uint64_t* r = lanes<uint64_t>(w, in.to(k));
      const uint64_t value = r[first];
      for_lanes(r, mask, [&](int) { return value; });
    } else {
      uint32_t* r = lanes<uint32_t>(w, in.to(k));
      const uint32_t value = r[first];
      for_lanes(r, mask, [&](int) { return value; });
    }
  }
}

}  // namespace ptxemu
