// Normalisation of each row (arXiv:1607.06450) and its gradient, a warp a row.
//   x̂ = (x − mean)·rstd,  y = x̂·γ + β;  dx = rstd·(γ·dy − mean(γ·dy) − x̂·mean(γ·dy·x̂))   (torch:aten/src/ATen/native/layer_norm.cpp)
#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 128, kRows = kThreads / 32;  // of a block

// Calls f(v, k) for the vectors of this lane; k counts them.
template <int K, class F> __device__ __forceinline__ void for_lane(int vectors, F f) {
  if constexpr (K > 0) {
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int v = threadIdx.x % 32 + 32 * k;
      if (v < vectors) f(v, k);
    }
  } else {
    for (int v = threadIdx.x % 32; v < vectors; v += 32) f(v, 0);
  }
}

// A row that a warp reads: a lane keeps up to K vectors in registers. With K = 0 a row may have any length, and every pass reads it again.
template <class T, int N, int K> struct Row {
  const T* data;
  Vector<T, N> registers[K ? K : 1];

  __device__ __forceinline__ Row(const T* row, int vectors) : data(row) {
    if constexpr (K > 0) for_lane<K>(vectors, [&](int v, int k) { registers[k].load(data + v * N); });
  }
  __device__ __forceinline__ Vector<T, N> operator()(int v, int k) const {
    if constexpr (K > 0) return registers[k];
    else return Vector<T, N>(data + v * N);
  }
};

// x, y [rows, C], C = vectors · N; statistics [rows] = mean, rstd.
template <class T, int N, int K> __global__ void __launch_bounds__(kThreads)
    layer_norm(int rows, int vectors, float eps, const T* x, const float* gamma, const float* beta, T* y, float2* statistics) {
  if constexpr (kComputes<T>) {
    const int row = blockIdx.x * kRows + threadIdx.x / 32;
    if (row >= rows) return;
    const int64_t first = static_cast<int64_t>(row) * vectors * N;
    const float size = static_cast<float>(vectors * N);
    const Row<T, N, K> in(x + first, vectors);

    float sum = 0, rest = 0, squares = 0;
    for_lane<K>(vectors, [&](int v, int k) {
      const auto a = in(v, k);
#pragma unroll
      for (int i = 0; i < N; i++) sum += a[i];
    });
    const float shift = warp_sum(sum) / size;
    for_lane<K>(vectors, [&](int v, int k) {
      const auto a = in(v, k);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float d = a[i] - shift;
        rest += d;
        squares += d * d;
      }
    });
    // Σ(x − shift) is what rounding of the first sum left over: it corrects the mean.
    const float correction = warp_sum(rest) / size, mean = shift + correction;
    const float rstd = 1 / sqrtf(fmaxf(0.0f, warp_sum(squares) / size - correction * correction) + eps);
    for_lane<K>(vectors, [&](int v, int k) {
      const auto a = in(v, k);
      float g[N], b[N], out[N];
      load(gamma + v * N, g);
      load(beta + v * N, b);
#pragma unroll
      for (int i = 0; i < N; i++) out[i] = (a[i] - mean) * rstd * g[i] + b[i];
      store(y + first + v * N, out);
    });
    if (threadIdx.x % 32 == 0) statistics[row] = {mean, rstd};
  }
}

template <class T, int N, int K> __global__ void __launch_bounds__(kThreads)
    layer_norm_grad(int rows, int vectors, const T* x, const float* gamma, const float2* statistics, const T* dy, const T* residual,
                    T* dx) {
  if constexpr (kComputes<T>) {
    const int row = blockIdx.x * kRows + threadIdx.x / 32;
    if (row >= rows) return;
    const int64_t first = static_cast<int64_t>(row) * vectors * N;
    const float size = static_cast<float>(vectors * N);
    const float mean = statistics[row].x, rstd = statistics[row].y;
    const Row<T, N, K> in(x + first, vectors), gradient(dy + first, vectors);

    float sum = 0, products = 0;
    for_lane<K>(vectors, [&](int v, int k) {
      const auto a = in(v, k), d = gradient(v, k);
      float g[N];
      load(gamma + v * N, g);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float z = d[i] * g[i];
        sum += z;
        products += z * (a[i] - mean);
      }
    });
    const float mean1 = warp_sum(sum) / size, mean2 = warp_sum(products) * rstd * rstd / size;
    for_lane<K>(vectors, [&](int v, int k) {
      const auto a = in(v, k), d = gradient(v, k);
      float g[N], out[N];
      load(gamma + v * N, g);
#pragma unroll
      for (int i = 0; i < N; i++) out[i] = rstd * (d[i] * g[i] - mean1 - (a[i] - mean) * mean2);
      if (residual) add(residual + first + v * N, out);
      store(dx + first + v * N, out);
    });
  }
}

// Calls f(T(), Count<N>(), Count<K>()): 320, 640 and 1280 channels of SD and 768 of CLIP stay in registers.
template <class F> void for_rows(DType dtype, int64_t channels, F f) {
  for_vectors(dtype, channels, [&](auto type, auto n) {
    const int64_t each = ceil_div<int64_t>(channels / n, 32);
    if constexpr (n == 1) f(type, n, Count<0>());
    else if (each <= 3) f(type, n, Count<3>());
    else if (each <= 5) f(type, n, Count<5>());
    else if (each <= 10) f(type, n, Count<10>());
    else f(type, n, Count<0>());
  });
}

}  // namespace

template <> void run(const LayerNorm& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1], rows = c.in(0).shape.rows();
  for_rows(c.in(0).dtype, channels, [&]<class T>(T, auto n, auto k) {
    launch("layer_norm", layer_norm<T, n, k>, ceil_div<int64_t>(rows, kRows), kThreads, 0, c.stream, rows, channels / n, op.eps,
           data<T>(c.in(0)), c.in(1).f32(), c.in(2).f32(), data<T>(c.out(0)), c.out(1).data);
  });
}

template <> void run(const LayerNormGrad& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1], rows = c.in(0).shape.rows();
  const Tensor* residual = c.in_or_null(residual_input(op));
  for_rows(c.in(0).dtype, channels, [&]<class T>(T, auto n, auto k) {
    launch("layer_norm_grad", layer_norm_grad<T, n, k>, ceil_div<int64_t>(rows, kRows), kThreads, 0, c.stream, rows, channels / n,
           data<T>(c.in(0)), c.in(1).f32(), c.in(2).data, data<T>(c.in(3)), residual ? data<T>(*residual) : nullptr, data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
