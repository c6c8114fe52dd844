// Rows of the element-wise ops, and of sums over positions.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

// Odd sizes, several jobs, batches.
const Shape kShapes[] = {{1, 1}, {2, 3, 17}, {2, 5, 7, 16}, {3, 64, 320}};

}  // namespace

SUITE(activation) {
  for (Function f : {Function::silu, Function::gelu, Function::quick_gelu}) {
    for (const Shape& s : kShapes) {
      op_row({Activation{f}, {{s}}});
      op_row({ActivationGrad{f}, {{s}, {s}}});
    }
    op_row({Activation{f}, {scaled({4, 1000}, {5})}});  // into both tails
    op_row({ActivationGrad{f}, {scaled({4, 1000}, {5}), {Shape{4, 1000}}}});
    for (int64_t width = 2; width <= 16; width++) op_row({Activation{f}, {{Shape{1, width}}}});
  }
}

SUITE(geglu) {
  for (const Shape& s : kShapes) {
    const Shape twice = s.with_channels(2 * s[-1]);
    op_row({Geglu{}, {{twice}}});
    op_row({GegluGrad{}, {{twice}, {s}}});
  }
  op_row({Geglu{}, {scaled({4, 2000}, {5})}});
  op_row({GegluGrad{}, {scaled({4, 2000}, {5}), {Shape{4, 1000}}}});
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

}  // namespace lorafuse::test
