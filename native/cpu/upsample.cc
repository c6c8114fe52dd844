// Images twice as high and wide, each pixel four times, and the gradient.
#include "loops.h"

namespace lorafuse::cpu {

template <> void run(const Upsample&, Context& c) {
  const Shape& y = c.out(0).shape;
  const int64_t width = y[2], channels = y[3];
  const float* x = c.in(0).f32();
  float* out = c.out(0).f32();
  for_rows(c, y.rows(), channels, [=](int64_t pixel) {
    const float* from = x + (pixel / width / 2 * (width / 2) + pixel % width / 2) * channels;
    std::copy_n(from, channels, out + pixel * channels);
  });
}

template <> void run(const UpsampleGrad&, Context& c) {
  const Shape& x = c.out(0).shape;
  const int64_t width = x[2], channels = x[3], line = 2 * width * channels;
  const float* dy = c.in(0).f32();
  float* dx = c.out(0).f32();
  for_rows(c, x.rows(), 4 * channels, [=](int64_t pixel) {
    const float *above = dy + pixel / width * 2 * line + pixel % width * 2 * channels, *below = above + line;
    float* to = dx + pixel * channels;
#pragma omp simd
    for (int64_t i = 0; i < channels; i++) to[i] = (above[i] + above[channels + i]) + (below[i] + below[channels + i]);
  });
}

}  // namespace lorafuse::cpu
