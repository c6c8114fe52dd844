// Rows of sinusoids, noise, the loss and its gradient.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

Input timesteps(Shape shape) {
  return {std::move(shape), DType::f32, [](Random& random) { return static_cast<float>(random.below(1000)); }};
}
Input uniform(Shape shape) {
  return {std::move(shape), DType::f32, [](Random& random) { return random.uniform(); }};
}

}  // namespace

SUITE(sinusoid) {
  for (bool cos_first : {true, false})
    for (float shift : {0.0f, 1.0f})
      for (int64_t dim : {8, 320})
        for (const Shape& s : {Shape{3}, Shape{2, 6}}) op_row({Sinusoid{dim, cos_first, shift}, {timesteps(s)}});
}

SUITE(loss) {
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{2, 3, 5, 4}, Shape{3, 64, 64, 4}}) {
    for (bool f32 : {false, true}) op_row({AddNoise{f32}, {{s}, {s}, uniform({s[0], 2})}});
    op_row({MseLoss{}, {{s}, {s}, uniform({s[0]})}});
    op_row({MseLossGrad{}, {{s}, {s}, uniform({s[0]})}});
  }
}

}  // namespace lorafuse::test
