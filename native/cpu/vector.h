// The widest float vector of the instruction set this file is compiled for, and loads that widen weights to it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../base/floats.h"

namespace lorafuse::cpu {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 14;  // 14 × 2 accumulators + 2 of b + 1 broadcast = 31 of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;  // 12 + 2 + 1 of 16
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 6;
#endif

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVector __attribute__((vector_size(kLanes * 4), aligned(4)));

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline Vector splat(float x) { return x - Vector{}; }

inline Vector load(const Bfloat* p) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2)));
  typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
  return reinterpret_cast<Vector>(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}
inline Vector load(const Half* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return reinterpret_cast<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vector v;
  for (int i = 0; i < kLanes; i++) v[i] = widen(p[i]);
  return v;
#endif
}

// `count` of kLanes elements, the others 0; and back, the others left alone.
template <class Element> Vector load_some(const Element* p, int64_t count) {
  if (count >= kLanes) return load(p);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Element, float>) return _mm512_maskz_loadu_ps((1u << count) - 1, p);
#endif
  Element some[kLanes] = {};
  std::copy_n(p, count, some);
  return load(some);
}
inline void store_some(float* p, Vector v, int64_t count) {
  if (count >= kLanes) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (1u << count) - 1, v);
#else
  for (int64_t i = 0; i < count; i++) p[i] = v[i];
#endif
}

// Combines all lanes, in an order that only depends on their number.
template <class F> float reduce(Vector v, F combine) {
  Integers lane;
  for (int j = 0; j < kLanes; j++) lane[j] = j;
#pragma GCC unroll 4
  for (int s = kLanes / 2; s > 0; s /= 2) v = combine(v, __builtin_shuffle(v, lane ^ s));
  return v[0];
}

// Calls f with the tensor's data as const float*, const Half* or const Bfloat*.
template <class F> decltype(auto) with_elements(const Tensor& t, F&& f) {
  return with_float(t.dtype, [&]<class Element>(Element) { return f(static_cast<const Element*>(t.data)); });
}

// out [count] = elements begin … begin + count of t, which is f32, f16 or bf16.
inline void widen_row(const Tensor& t, int64_t begin, int64_t count, float* out) {
  with_elements(t, [&](const auto* data) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load(data + begin + i));
    for (; i < count; i++) out[i] = widen(data[begin + i]);
  });
}

// Transposes kLanes × kLanes in registers: at stage s, blocks of s × s off the diagonal change places.
inline void transpose(Vector (&rows)[kLanes]) {
  Integers lane;
  for (int j = 0; j < kLanes; j++) lane[j] = j;
#pragma GCC unroll 4
  for (int s = 1; s < kLanes; s *= 2) {
    const Integers low = (lane & s) == 0, upper = low ? lane : lane - s + kLanes, lower = low ? lane + s : lane + kLanes;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) {
      if (i & s) continue;
      const Vector a = rows[i], b = rows[i + s];
      rows[i] = __builtin_shuffle(a, b, upper);
      rows[i + s] = __builtin_shuffle(a, b, lower);
    }
  }
}

}  // namespace lorafuse::cpu
