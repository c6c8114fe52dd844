// Rows of the ops that go over their elements once.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

// Odd sizes, several jobs, batches.
const Shape kShapes[] = {{1, 1}, {2, 3, 17}, {2, 5, 7, 16}, {3, 64, 320}};

Input ids(Shape shape, int64_t vocabulary) {
  return {std::move(shape), DType::i32, [=](Random& random) { return static_cast<float>(random.below(vocabulary)); }};
}
Input timesteps(Shape shape) {
  return {std::move(shape), DType::f32, [](Random& random) { return static_cast<float>(random.below(1000)); }};
}
Input uniform(Shape shape) {
  return {std::move(shape), DType::f32, [](Random& random) { return random.uniform(); }};
}

}  // namespace

SUITE(activation) {
  for (Function f : {Function::silu, Function::gelu, Function::quick_gelu}) {
    for (const Shape& s : kShapes) {
      op_row({Activation{f}, {{s}}});
      op_row({ActivationGrad{f}, {{s}, {s}}});
    }
    op_row({Activation{f}, {scaled({4, 1000}, 5)}});  // into both tails
    op_row({ActivationGrad{f}, {scaled({4, 1000}, 5), {Shape{4, 1000}}}});
    for (int64_t width = 2; width <= 16; width++) op_row({Activation{f}, {{Shape{1, width}}}});
  }
}

SUITE(geglu) {
  for (const Shape& s : kShapes) {
    const Shape twice = s.with_channels(2 * s[-1]);
    op_row({Geglu{}, {{twice}}});
    op_row({GegluGrad{}, {{twice}, {s}}});
  }
  op_row({Geglu{}, {scaled({4, 2000}, 5)}});
  op_row({GegluGrad{}, {scaled({4, 2000}, 5), {Shape{4, 1000}}}});
}

SUITE(add) {
  for (const Shape& s : kShapes) {
    const Shape per_sample{s[0], s[-1]};
    op_row({Add{}, {{s}, {s}}});
    op_row({AddPerSample{}, {{s}, {per_sample}}});
    op_row({SumPositions{}, {{s}}});
  }
  for (int64_t channels : {31, 32, 33, 65}) op_row({SumPositions{}, {{Shape{2, 70, channels}}}});
  op_row({SumPositions{}, {{Shape{1, 40, 40, 5}}}});
}

SUITE(copies) {
  for (const Shape& s : kShapes) {
    op_row({Concat{}, {{s}, {s.with_channels(s[-1] + 3)}}});
    op_row({Slice{0, s[-1]}, {{s.with_channels(s[-1] + 3)}}});
    op_row({Slice{3, s[-1] + 3}, {{s.with_channels(s[-1] + 3)}}});
  }
}

SUITE(embedding) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t channels : {1, 15, 16, 17, 768})
      op_row({Embedding{}, {ids({2, 7}, 30), {Shape{30, channels}, dtype}, {Shape{9, channels}, dtype}}});
  for (bool cos_first : {true, false})
    for (float shift : {0.0f, 1.0f})
      for (int64_t dim : {8, 320})
        for (const Shape& s : {Shape{3}, Shape{2, 6}}) op_row({Sinusoid{dim, cos_first, shift}, {timesteps(s)}});
}

SUITE(loss) {
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{2, 3, 5, 4}, Shape{3, 64, 64, 4}}) {
    op_row({AddNoise{}, {{s}, {s}, uniform({s[0], 2})}});
    op_row({MseLoss{}, {{s}, {s}, uniform({s[0]})}});
    op_row({MseLossGrad{}, {{s}, {s}, uniform({s[0]})}});
  }
}

}  // namespace lorafuse::test
