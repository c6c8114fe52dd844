// What products read and multiply: cells of 32 bits, kept as floats. A cell holds one element of an operand; where this library is built
// for avx512_bf16 two neighbours in k, rounded to bf16 (to the nearest, ties to even), whose products are added up in f32. See library.cc.
#pragma once
#include "vector.h"

namespace lorafuse::cpu {

#if defined(__AVX512BF16__)
constexpr int kPerCell = 2;
#else
constexpr int kPerCell = 1;
#endif
constexpr int64_t cells(int64_t k) { return (k + kPerCell - 1) / kPerCell; }

// A cell for each lane, of the elements at k and at k + 1, which are not looked at where a cell holds one.
inline Vector cells_of(Vector first, [[maybe_unused]] Vector second) {
#if defined(__AVX512BF16__)
  constexpr auto kOrder = [] {
    struct { alignas(64) uint16_t lanes[2 * kLanes]; } order{};
    for (int i = 0; i < kLanes; i++) order.lanes[2 * i] = i, order.lanes[2 * i + 1] = kLanes + i;
    return order;
  }();
  const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  return reinterpret_cast<Vector>(_mm512_permutexvar_epi16(_mm512_load_si512(kOrder.lanes), both));
#else
  return first;
#endif
}

// The cells of kLanes · kPerCell neighbours in k, which are first and second; of first where a cell holds one.
inline Vector neighbours(Vector first, [[maybe_unused]] Vector second) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<Vector>(_mm512_cvtne2ps_pbh(second, first));
#else
  return first;
#endif
}

// The same, from a pointer to the first one, each times `scale`.
template <class Element> Vector load_cells(const Element* p, float scale) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Element, Bfloat>)
    if (scale == 1) return reinterpret_cast<Vector>(_mm512_loadu_si512(p));
#endif
  return neighbours(load(p) * scale, kPerCell > 1 ? load(p + kLanes) * scale : Vector{});
}

// The same for the first `count` of them; the others are 0.
template <class Element> Vector load_cells(const Element* p, int64_t count, float scale) {
  if (count >= kLanes * kPerCell) return load_cells(p, scale);
  if constexpr (std::is_same_v<Element, float>)
    return neighbours(load_some(p, count) * scale,
                      kPerCell > 1 && count > kLanes ? load_some(p + kLanes, count - kLanes) * scale : Vector{});
  Element some[kLanes * kPerCell] = {};
  std::copy_n(p, count, some);
  return load_cells(some, scale);
}

// The same cell in all lanes.
inline Vector splat_cell(float cell) {
#if defined(__AVX512BF16__)
  return _mm512_set1_ps(cell);
#else
  return splat(cell);
#endif
}

// sum + a · b, lane by lane, both products where a cell holds two elements.
inline Vector multiply_add(Vector sum, Vector a, Vector b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
#else
  return sum + a * b;
#endif
}

}  // namespace lorafuse::cpu
