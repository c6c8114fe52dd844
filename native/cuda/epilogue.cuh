// The end of a product's kernel: its f32 sums become y = sum + bias + residual in T, or a GEGLU. Where k is split, this follows an ordered
// reduction.
#pragma once
#include "math.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {

// v += bias
template <int kCount> __device__ __forceinline__ void add_floats(const float* bias, float* v) {
#pragma unroll
  for (int e = 0; e < kCount; e += 4) {
    const float4 b = __ldg(reinterpret_cast<const float4*>(bias + e));
    v[e] += b.x, v[e + 1] += b.y, v[e + 2] += b.z, v[e + 3] += b.w;
  }
}

// An epilogue gets consecutive elements of one output row: their offset, the first one's column, the values (kCount for a vector store).
// It clips at the end of the row.
template <class T> struct Store {
  using Element = T;
  static constexpr int kCount = 16 / sizeof(T);
  T* y;               // [M, n]
  const float* bias;  // [n] or null
  const T* residual;  // as y, or null
  int n;
  bool in_chunks;  // y, bias and residual are rows of whole, aligned chunks

  template <int kGiven> __device__ __forceinline__ void operator()(int at, int column, float (&v)[kGiven]) const {
    if constexpr (kGiven == kCount || kGiven == 4) {
      if (in_chunks) {
        if (bias) add_floats<kGiven>(bias + column, v);
        if (residual) {
          const Chunk<T, kGiven> r(residual + at);
#pragma unroll
          for (int e = 0; e < kGiven; e++) v[e] += r[e];
        }
        return Chunk<T, kGiven>::store(y + at, v);
      }
    }
#pragma unroll
    for (int e = 0; e < kGiven; e++) {
      if (column + e >= n) break;
      const float sum = bias ? v[e] + bias[column + e] : v[e];
      y[at + e] = from_float<T>(residual ? sum + to_float(residual[at + e]) : sum);
    }
  }
};

// y [M, 2F] = a ‖ b with its bias, and a · gelu(b) [M, F]: called with a chunk of a and the same columns of b.
template <class T> struct StoreGeglu {
  T* y;
  T* gated;
  const float* bias;  // [2F] or null
  int f;

  __device__ __forceinline__ void operator()(int row, int column, float (&v)[16]) const {
    static_assert(sizeof(T) == 2);
    float *a = v, *b = v + 8;
    if (bias) add_floats<8>(bias + column, a), add_floats<8>(bias + f + column, b);
    T* to = y + row * 2 * f + column;
    Chunk<T>::store(to, a);
    Chunk<T>::store(to + f, b);
#pragma unroll
    for (int e = 0; e < 8; e++) a[e] *= gelu(b[e]);
    Chunk<T>::store(gated + row * f + column, a);
  }
};

// dx [M, 2F] of a GEGLU's x [M, 2F] = a ‖ b: called with a chunk of dy.
template <class T> struct StoreGegluGrad {
  const T* x;
  T* dx;
  int f;

  __device__ __forceinline__ void operator()(int row, int column, float (&dy)[8]) const {
    static_assert(sizeof(T) == 2);
    const int at = row * 2 * f + column;
    const Chunk<T> a(x + at), b(x + at + f);
    float da[8], db[8];
#pragma unroll
    for (int e = 0; e < 8; e++) geglu_slopes(a[e], b[e], dy[e], da[e], db[e]);
    Chunk<T>::store(dx + at, da);
    Chunk<T>::store(dx + at + f, db);
  }
};

// g += scale · sum, for gradients.
struct Accumulate {
  using Element = float;
  static constexpr int kCount = 4;
  float* g;  // [M, n]
  float scale;
  int n;
  bool in_chunks;

  template <int kGiven> __device__ __forceinline__ void operator()(int at, int column, float (&v)[kGiven]) const {
    if constexpr (kGiven == 4) {
      if (in_chunks) {
        float4& to = *reinterpret_cast<float4*>(g + at);
        const float4 sum = to;
        to = {sum.x + scale * v[0], sum.y + scale * v[1], sum.z + scale * v[2], sum.w + scale * v[3]};
        return;
      }
    }
#pragma unroll
    for (int e = 0; e < kGiven; e++)
      if (column + e < n) g[at + e] += scale * v[e];
  }
};

// The sums of one split of k, as they are.
struct StoreSplit {
  static constexpr int kCount = 4;
  float* sums;  // [M, n]
  int n;

  template <int kGiven> __device__ __forceinline__ void operator()(int at, int column, float (&v)[kGiven]) const {
    if constexpr (kGiven == 4) {
      if (n % 4 == 0) {
        *reinterpret_cast<float4*>(sums + at) = {v[0], v[1], v[2], v[3]};
        return;
      }
    }
#pragma unroll
    for (int e = 0; e < kGiven; e++)
      if (column + e < n) sums[at + e] = v[e];
  }
};

// split_sums [splits, elements], added in order.
template <class Epilogue> __global__ void __launch_bounds__(256)
    reduce_splits(const float* split_sums, int splits, int elements, const Epilogue epilogue) {
  if constexpr (kComputes<typename Epilogue::Element>) {
    const int at = blockIdx.x * 256 + threadIdx.x;
    if (at >= elements) return;
    float v[1] = {0};
    for (int s = 0; s < splits; s++) v[0] += split_sums[static_cast<size_t>(s) * elements + at];
    epilogue(at, at % epilogue.n, v);
  }
}

}  // namespace lorafuse::cuda
