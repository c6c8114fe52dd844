// Neighbouring elements of a tensor, read and written 16 bytes at a time where channels and alignment allow, one at a time elsewhere.
#pragma once
#include <cstdint>

#include "device.cuh"

namespace lorafuse::cuda {

// Two floats rounded to T, the first in the low half.
template <class T> __device__ __forceinline__ uint32_t packed(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return __half_as_ushort(__low2half(pair)) | static_cast<uint32_t>(__half_as_ushort(__high2half(pair))) << 16;
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(__low2bfloat16(pair)) | static_cast<uint32_t>(__bfloat16_as_ushort(__high2bfloat16(pair))) << 16;
  }
}

// 16 bytes of elements, or 8 or 4, as one access.
template <class T, int kElements = 16 / sizeof(T)> union Chunk {
  static constexpr int kCount = kElements;
  static constexpr size_t kBytes = kCount * sizeof(T);
  using Bits = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, uint32_t>>;
  static_assert(sizeof(Bits) == kBytes);
  Bits bits;
  T elements[kCount];

  Chunk() = default;
  __device__ __forceinline__ explicit Chunk(const T* from) : bits(*reinterpret_cast<const Bits*>(from)) {}
  __device__ __forceinline__ float operator[](int e) const { return to_float(elements[e]); }
  static __device__ __forceinline__ void store(T* to, const float* v) {
    Chunk chunk;
#pragma unroll
    for (int e = 0; e < kCount; e++) chunk.elements[e] = from_float<T>(v[e]);
    *reinterpret_cast<Bits*>(to) = chunk.bits;
  }
};

// N elements as they are in memory: one, or a multiple of 16 bytes that begins at one.
template <class T, int N> struct Vector {
  static constexpr int kEach = 4 / static_cast<int>(sizeof(T));  // elements of a word
  static_assert(N == 1 || N % kVector<T> == 0);
  uint32_t words[N == 1 ? 1 : N / kEach];

  Vector() = default;
  __device__ __forceinline__ explicit Vector(const T* from) { load(from); }
  __device__ __forceinline__ void load(const T* from) {
    if constexpr (N == 1) {
      words[0] = *reinterpret_cast<const std::conditional_t<kEach == 1, uint32_t, uint16_t>*>(from);
    } else {
#pragma unroll
      for (int i = 0; i < N / kEach; i += 4) {
        const uint4 bits = reinterpret_cast<const uint4*>(from)[i / 4];
        words[i] = bits.x, words[i + 1] = bits.y, words[i + 2] = bits.z, words[i + 3] = bits.w;
      }
    }
  }

  __device__ __forceinline__ float operator[](int i) const {
    const uint32_t word = words[i / kEach];
    const auto half = static_cast<unsigned short>(i % 2 ? word >> 16 : word);
    if constexpr (std::is_same_v<T, float>) return __uint_as_float(word);
    else if constexpr (std::is_same_v<T, __half>) return __half2float(__ushort_as_half(half));
    else return __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
  }
};

template <int N, class T> __device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  const Vector<T, N> v(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = v[i];
}

// to += from, N elements.
template <int N, class T> __device__ __forceinline__ void add(const T* from, float (&to)[N]) {
  const Vector<T, N> v(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] += v[i];
}

// One 16-byte store: nvcc splits some uint4 assignments, which then take four times the passes.
__device__ __forceinline__ void store_16(void* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" : : "l"(__cvta_generic_to_global(to)), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

template <int N, class T> __device__ __forceinline__ void store(T* to, const float (&from)[N]) {
  if constexpr (N == 1) {
    *to = from_float<T>(from[0]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += kVector<T>) {
      if constexpr (std::is_same_v<T, float>) {
        store_16(to + i, __float_as_uint(from[i]), __float_as_uint(from[i + 1]), __float_as_uint(from[i + 2]),
                 __float_as_uint(from[i + 3]));
      } else {
        store_16(to + i, packed<T>(from[i], from[i + 1]), packed<T>(from[i + 2], from[i + 3]), packed<T>(from[i + 4], from[i + 5]),
                 packed<T>(from[i + 6], from[i + 7]));
      }
    }
  }
}

// to[i] = f(i), N elements.
template <int N, class T, class F> __device__ __forceinline__ void store_each(T* to, F f) {
  float values[N];
#pragma unroll
  for (int i = 0; i < N; i++) values[i] = f(i);
  store(to, values);
}

template <int N> using Count = std::integral_constant<int, N>;

// Calls f(T(), Count<N>()) with the type of a tensor and how many elements an access has: `extent` is a multiple of it.
template <class F> void for_vectors(DType dtype, int64_t extent, F f) {
  for_type(dtype, [&]<class T>(T type) {
    if (extent % kVector<T> == 0) f(type, Count<kVector<T>>());
    else f(type, Count<1>());
  });
}

}  // namespace lorafuse::cuda
