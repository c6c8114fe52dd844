// Ops that move elements: concatenation, slices, rows of tables. Formulas in graph/ops.h.
#include "loops.h"
#include "vector.h"

namespace lorafuse::cpu {

template <> void run(const Concat&, Context& c) {
  const int64_t first = c.in(0).shape[-1], second = c.in(1).shape[-1], all = first + second;
  const float *a = c.in(0).f32(), *b = c.in(1).f32();
  float* y = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), all, [=](int64_t r) {
    std::copy_n(a + r * first, first, y + r * all);
    std::copy_n(b + r * second, second, y + r * all + first);
  });
}

template <> void run(const Slice& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1], width = op.end - op.begin;
  const float* x = c.in(0).f32() + op.begin;
  float* y = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), width, [=](int64_t r) { std::copy_n(x + r * channels, width, y + r * width); });
}

template <> void run(const Embedding&, Context& c) {
  const int64_t tokens = c.in(0).shape[1], vocabulary = c.in(1).shape[0], channels = c.in(1).shape[1];
  const int32_t* ids = c.in(0).i32();
  for (int64_t r = 0; r < c.in(0).shape.elements(); r++)
    CHECK(ids[r] >= 0 && ids[r] < vocabulary, "TOKEN_OUT_OF_RANGE", "[embedding] Expected token ids from 0 to ", vocabulary - 1,
          " but received ", ids[r], " at position ", r % tokens);
  for_rows(c, c.in(0).shape.elements(), channels, [&](int64_t r) {
    float* y = c.out(0).f32() + r * channels;
    widen_row(c.in(1), ids[r] * channels, channels, y);
    with_elements(c.in(2), [&](const auto* positions) {
      const auto* position = positions + r % tokens * channels;
      for (int64_t i = 0; i < channels; i++) y[i] += widen(position[i]);
    });
  });
}

template <> void run(const Gather&, Context& c) {
  const int64_t rows = c.in(0).shape.rows(), channels = c.in(0).shape[-1], count = c.in(1).shape.elements();
  const int32_t* from = c.in(1).i32();
  for (int64_t r = 0; r < count; r++)
    CHECK(from[r] >= 0 && from[r] < rows, "ROW_OUT_OF_RANGE", "[gather] Expected rows from 0 to ", rows - 1, " but received ", from[r],
          " at position ", r);
  const float* x = c.in(0).f32();
  float* y = c.out(0).f32();
  for_rows(c, count, channels, [=](int64_t r) { std::copy_n(x + from[r] * channels, channels, y + r * channels); });
}

// A job has some columns of all rows, so each sum is made in one order.
template <> void run(const GatherGrad& op, Context& c) {
  constexpr int64_t kStrip = 64;
  const int64_t rows = op.shape.rows(), channels = op.shape[-1], count = c.in(0).shape.elements();
  const int32_t* to = c.in(0).i32();
  const float* dy = c.in(1).f32();
  float* dx = c.out(0).f32();
  c.threads.for_each((channels + kStrip - 1) / kStrip, [&](int64_t job, int) {
    const int64_t first = job * kStrip, width = std::min(kStrip, channels - first);
    for (int64_t r = 0; r < rows; r++) std::fill_n(dx + r * channels + first, width, 0.0f);
    for (int64_t r = 0; r < count; r++) add_row(dy + r * channels + first, width, dx + to[r] * channels + first);
  });
}

}  // namespace lorafuse::cpu
