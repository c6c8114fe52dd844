// Element-wise ops, which read their inputs once, and sums over positions: formulas in graph/ops.h and math.cuh.
#include "kernels.h"
#include "math.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

template <Function f> struct Apply {
  static __device__ __forceinline__ float of(float x) {
    return f == Function::silu ? silu(x) : f == Function::gelu ? gelu(x) : quick_gelu(x);
  }
};
template <Function f> struct Slope {
  static __device__ __forceinline__ float of(float x, float dy) {
    return dy * (f == Function::silu ? silu_grad(x) : f == Function::gelu ? gelu_grad(x) : quick_gelu_grad(x));
  }
};
struct Sum {
  static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};

// y[i] = F::of(inputs[i]…)
template <class F, class T, class... Inputs> __global__ void __launch_bounds__(kBlock) map(int64_t count, T* y, Inputs... inputs) {
  if constexpr (kComputes<T>) {
    constexpr int N = kVector<T>;
    const int64_t first = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) * N;
    if (first + N <= count) {
      const auto apply = [&](const auto&... vectors) {
        float out[N];
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = F::of(vectors[i]...);
        store(y + first, out);
      };
      apply(Vector<T, N>(inputs + first)...);
    } else {
#pragma unroll 1
      for (int64_t i = first; i < count; i++) y[i] = from_float<T>(F::of(to_float(inputs[i])...));
    }
  }
}

template <class F, class... Inputs> void map_all(const char* name, Context& c, const Inputs&... inputs) {
  const int64_t count = c.out(0).shape.elements();
  for_type(c.out(0).dtype, [&]<class T>(T) {
    launch_each(name, map<F, T, decltype(static_cast<void>(inputs), static_cast<const T*>(nullptr))...>,
                {ceil_div<int64_t>(count, kVector<T>)}, c.stream, count, data<T>(c.out(0)), data<T>(inputs)...);
  });
}

template <class F> void for_function(Function function, F f) {
  switch (function) {
    case Function::silu: return f(std::integral_constant<Function, Function::silu>());
    case Function::gelu: return f(std::integral_constant<Function, Function::gelu>());
    case Function::quick_gelu: return f(std::integral_constant<Function, Function::quick_gelu>());
  }
}

// x [rows, 2F] = a ‖ b; y [rows, F]. F = vectors · N.
template <class T, int N> __global__ void __launch_bounds__(kBlock) geglu(uint32_t rows, uint32_t vectors, const T* x, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, r = i / vectors, v = i % vectors;
    if (r >= rows) return;
    const T* from = x + (static_cast<int64_t>(r) * 2 * vectors + v) * N;
    const Vector<T, N> a(from), b(from + static_cast<int64_t>(vectors) * N);
    float out[N];
#pragma unroll
    for (int k = 0; k < N; k++) out[k] = a[k] * gelu(b[k]);
    store(y + static_cast<int64_t>(i) * N, out);
  }
}

// dx [rows, 2F] = da ‖ db from dy [rows, F].
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    geglu_grad(uint32_t rows, uint32_t vectors, const T* x, const T* dy, T* dx) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, r = i / vectors, v = i % vectors;
    if (r >= rows) return;
    const int64_t first = (static_cast<int64_t>(r) * 2 * vectors + v) * N, second = first + static_cast<int64_t>(vectors) * N;
    const Vector<T, N> a(x + first), b(x + second), g(dy + static_cast<int64_t>(i) * N);
    float da[N], db[N];
#pragma unroll
    for (int k = 0; k < N; k++) geglu_slopes(a[k], b[k], g[k], da[k], db[k]);
    store(dx + first, da);
    store(dx + second, db);
  }
}

// y [B, positions, C] = x + e [B, C]. C = vectors · N; sample blockIdx.y.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    add_per_sample(uint32_t count, uint32_t vectors, const T* x, const T* e, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, sample = blockIdx.y;
    if (i >= count) return;
    const int64_t first = (static_cast<int64_t>(sample) * count + i) * N;
    const Vector<T, N> a(x + first), b(e + (static_cast<int64_t>(sample) * vectors + i % vectors) * N);
    store_each<N>(y + first, [&](int k) { return a[k] + b[k]; });
  }
}

constexpr int kStrip = 32, kRows = kBlock / kStrip;  // vectors of a block, and its rows side by side
constexpr int kChunk = 8 * kRows;                    // positions that a block sums

// sums [B, chunks, C] f32 of x [B, positions, C]. Chunk blockIdx.x, strip of channels blockIdx.y, sample blockIdx.z.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    sum_chunk(uint32_t positions, uint32_t vectors, const T* x, float* sums) {
  if constexpr (kComputes<T>) {
    __shared__ float rows[N][kRows][kStrip];
    const uint32_t column = threadIdx.x % kStrip, row = threadIdx.x / kStrip, v = blockIdx.y * kStrip + column;
    const uint32_t first = blockIdx.x * kChunk, end = min(first + kChunk, positions);
    float sum[N] = {};
    if (v < vectors) {
      const T* from = x + (static_cast<int64_t>(blockIdx.z) * positions * vectors + v) * N;
#pragma unroll 4
      for (uint32_t p = first + row; p < end; p += kRows) { add(from + static_cast<int64_t>(p) * vectors * N, sum); }
    }
#pragma unroll
    for (int k = 0; k < N; k++) rows[k][row][column] = sum[k];
    __syncthreads();
    if (row != 0 || v >= vectors) return;
#pragma unroll
    for (int k = 0; k < N; k++) {
      for (int r = 1; r < kRows; r++) sum[k] += rows[k][r][column];
    }
    store(sums + ((static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x) * vectors + v) * N, sum);
  }
}

// y [B, C] = Σ_chunks sums [B, chunks, C]. Sample blockIdx.y.
template <class T> __global__ void __launch_bounds__(kBlock) sum_chunks(uint32_t chunks, uint32_t channels, const float* sums, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t c = blockIdx.x * kBlock + threadIdx.x;
    if (c >= channels) return;
    const float* from = sums + static_cast<int64_t>(blockIdx.y) * chunks * channels + c;
    float sum = 0;
    for (uint32_t i = 0; i < chunks; i++) sum += from[static_cast<int64_t>(i) * channels];
    y[static_cast<int64_t>(blockIdx.y) * channels + c] = from_float<T>(sum);
  }
}

uint32_t chunks_of(const Shape& x) { return ceil_div<int64_t>(x.rows() / x[0], kChunk); }

}  // namespace

template <> void run(const Activation& op, Context& c) {
  for_function(op.function, [&](auto f) { map_all<Apply<f>>("activation", c, c.in(0)); });
}

template <> void run(const ActivationGrad& op, Context& c) {
  for_function(op.function, [&](auto f) { map_all<Slope<f>>("activation_grad", c, c.in(0), c.in(1)); });
}

template <> void run(const Add&, Context& c) { map_all<Sum>("add", c, c.in(0), c.in(1)); }

template <> void run(const Geglu&, Context& c) {
  const int64_t rows = c.out(0).shape.rows(), width = c.out(0).shape[-1];
  for_vectors(c.out(0).dtype, width, [&]<class T>(T, auto n) {
    launch_each("geglu", geglu<T, n>, {rows * width / n}, c.stream, rows, width / n, data<T>(c.in(0)), data<T>(c.out(0)));
  });
}

template <> void run(const GegluGrad&, Context& c) {
  const int64_t rows = c.in(1).shape.rows(), width = c.in(1).shape[-1];
  for_vectors(c.out(0).dtype, width, [&]<class T>(T, auto n) {
    launch_each("geglu_grad", geglu_grad<T, n>, {rows * width / n}, c.stream, rows, width / n, data<T>(c.in(0)), data<T>(c.in(1)),
                data<T>(c.out(0)));
  });
}

template <> void run(const AddPerSample&, Context& c) {
  const Shape& x = c.in(0).shape;
  for_vectors(c.out(0).dtype, x[-1], [&]<class T>(T, auto n) {
    const int64_t count = x.elements() / x[0] / n;
    launch_each("add_per_sample", add_per_sample<T, n>, {count, x[0]}, c.stream, count, x[-1] / n, data<T>(c.in(0)), data<T>(c.in(1)),
                data<T>(c.out(0)));
  });
}

template <> size_t workspace_bytes(const SumPositions&, std::span<const Value> inputs, const Gpu&) {
  const Shape& x = inputs[0].shape;
  return x[0] * chunks_of(x) * x[-1] * sizeof(float);
}

template <> void run(const SumPositions&, Context& c) {
  const Shape& x = c.in(0).shape;
  const int64_t channels = x[-1], chunks = chunks_of(x);
  for_vectors(c.in(0).dtype, channels, [&]<class T>(T, auto n) {
    const int64_t vectors = channels / n;
    launch("sum_chunk", sum_chunk<T, n>, dim3(chunks, ceil_div<int64_t>(vectors, kStrip), x[0]), kBlock, 0, c.stream, x.rows() / x[0],
           vectors, data<T>(c.in(0)), c.workspace);
    launch_each("sum_chunks", sum_chunks<T>, {channels, x[0]}, c.stream, chunks, channels, c.workspace, data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
