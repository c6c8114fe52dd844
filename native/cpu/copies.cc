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

}  // namespace lorafuse::cpu
