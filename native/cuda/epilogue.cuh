// What becomes of a product's f32 sums: y = sum + bias + residual in T, or g += scale · sum. Where k is split, after an ordered reduction.
#pragma once
#include "device.cuh"

namespace lorafuse::cuda {

// Epilogues are called with the offset of the first of kCount elements of a row of n, and its column. They end at the row's end.
template <class T>
struct Store {
  T* y;               // [M, n]
  const float* bias;  // [n] or null
  const T* residual;  // as y, or null
  int n;
  bool in_chunks;     // y and residual are rows of whole, aligned chunks

  template <int kCount>
  __device__ __forceinline__ void operator()(int at, int column, float (&v)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; e++)
      if (bias && column + e < n) v[e] += bias[column + e];
    if constexpr (kCount * sizeof(T) == 16) {
      if (in_chunks) {
        union {
          uint4 chunk;
          T elements[kCount];
        } u;
        if (residual) {
          u.chunk = *reinterpret_cast<const uint4*>(residual + at);
#pragma unroll
          for (int e = 0; e < kCount; e++) v[e] += to_float(u.elements[e]);
        }
#pragma unroll
        for (int e = 0; e < kCount; e++) u.elements[e] = from_float<T>(v[e]);
        *reinterpret_cast<uint4*>(y + at) = u.chunk;
        return;
      }
    }
#pragma unroll
    for (int e = 0; e < kCount; e++)
      if (column + e < n) y[at + e] = from_float<T>(residual ? v[e] + to_float(residual[at + e]) : v[e]);
  }
};

struct Accumulate {
  float* g;  // [M, n]
  float scale;
  int n;

  template <int kCount>
  __device__ __forceinline__ void operator()(int at, int column, float (&v)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; e++)
      if (column + e < n) g[at + e] += scale * v[e];
  }
};

// The sums of one part of k, as they are.
struct StorePartial {
  float* partial;  // [M, n]
  int n;

  template <int kCount>
  __device__ __forceinline__ void operator()(int at, int column, float (&v)[kCount]) const {
    if constexpr (kCount == 8) {
      if (n % 4 == 0) {
#pragma unroll
        for (int e = 0; e < kCount; e += 4)
          if (column + e < n) *reinterpret_cast<float4*>(partial + at + e) = {v[e], v[e + 1], v[e + 2], v[e + 3]};
        return;
      }
    }
#pragma unroll
    for (int e = 0; e < kCount; e++)
      if (column + e < n) partial[at + e] = v[e];
  }
};

// partials [splits, elements], added in order.
template <class Epilogue>
__global__ void __launch_bounds__(256) reduce_partials(const float* partials, int splits, int elements, const Epilogue epilogue) {
  const int at = blockIdx.x * 256 + threadIdx.x;
  if (at >= elements) return;
  float v[1] = {0};
  for (int s = 0; s < splits; s++) v[0] += partials[static_cast<size_t>(s) * elements + at];
  epilogue(at, at % epilogue.n, v);
}

}  // namespace lorafuse::cuda
