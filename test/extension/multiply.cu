#include "cuda/kernels.h"
#include "cuda/vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 256;

template <class T> __global__ void __launch_bounds__(kThreads) multiply(int64_t count, const T* a, const T* b, T* y) {
  if constexpr (kComputes<T>) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) y[i] = from_float<T>(to_float(a[i]) * to_float(b[i]));
  }
}

}  // namespace

template <> void run(const Multiply& op, Context& c) {
  const int64_t count = c.out(0).shape.elements();
  for_type(c.out(0).dtype, [&](auto type) {
    using T = decltype(type);
    launch(op.name, multiply<T>, ceil_div<int64_t>(count, kThreads), kThreads, 0, c.stream, count, data<T>(c.in(0)), data<T>(c.in(1)),
           data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
