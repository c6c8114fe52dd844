// Images twice as high and wide, each pixel four times, and the gradient.
#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

// y [pixels, C] of x, C = vectors · N, rows of y `width` pixels wide.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    upsample(uint32_t pixels, uint32_t width, uint32_t vectors, const T* x, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, pixel = i / vectors;
    if (pixel >= pixels) return;
    const uint32_t from = pixel / width / 2 * (width / 2) + pixel % width / 2;
    float out[N];
    load(x + (static_cast<int64_t>(from) * vectors + i % vectors) * N, out);
    store(y + static_cast<int64_t>(i) * N, out);
  }
}

// dx [pixels, C] from dy, rows of dx `width` pixels wide.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    upsample_grad(uint32_t pixels, uint32_t width, uint32_t vectors, const T* dy, T* dx) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, pixel = i / vectors;
    if (pixel >= pixels) return;
    const int64_t pitch = static_cast<int64_t>(vectors) * N, line = 2 * width * pitch;
    const T* from = dy + pixel / width * 2 * line + pixel % width * 2 * pitch + i % vectors * N;
    float above[N], below[N];
    load(from, above), add(from + pitch, above);
    load(from + line, below), add(from + line + pitch, below);
    store_each<N>(dx + static_cast<int64_t>(i) * N, [&](int k) { return above[k] + below[k]; });
  }
}

}  // namespace

template <> void run(const Upsample& op, Context& c) {
  const Shape& y = c.out(0).shape;
  for_vectors(c.out(0).dtype, y[3], [&]<class T>(T, auto n) {
    launch_each(op.name, upsample<T, n>, {y.elements() / n}, c.stream, y.rows(), y[2], y[3] / n, data<T>(c.in(0)), data<T>(c.out(0)));
  });
}

template <> void run(const UpsampleGrad& op, Context& c) {
  const Shape& x = c.out(0).shape;
  for_vectors(c.out(0).dtype, x[3], [&]<class T>(T, auto n) {
    launch_each(op.name, upsample_grad<T, n>, {x.elements() / n}, c.stream, x.rows(), x[2], x[3] / n, data<T>(c.in(0)), data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
