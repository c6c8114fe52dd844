// Rows of conv_weight_grad, and of convolutions whose kernel is trained.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

void conv_gradient_row(const ConvWeightGrad& op, const Shape& x, int64_t outputs) {
  const auto extent = [&](int64_t size) { return (size + op.before + op.after - op.kernel) / op.stride + 1; };
  op_row({op, {{Shape{x[0], extent(x[1]), extent(x[2]), outputs}}, {x}}});
}

Input trained(Shape shape) {
  Input input{std::move(shape)};
  input.parameter = true;
  return input;
}

}  // namespace

SUITE(conv_weight_grad) {
  for (const ConvWeightGrad& op : {ConvWeightGrad{}, {1, 1, 0, 0}, {3, 2, 1, 1}, {3, 2, 0, 1}, {4, 2, 1, 1}}) {
    conv_gradient_row(op, {2, 6, 4, 8}, 16);
    conv_gradient_row(op, {1, 5, 7, 3}, 9);
  }
  for (int64_t outputs : {1, 3, 4, 7, 16, 33, 64, 72}) conv_gradient_row({}, {1, 8, 8, 40}, outputs);
  for (int64_t inputs : {1, 17, 31, 32, 33, 136}) conv_gradient_row({}, {1, 3, 5, inputs}, 4);
  conv_gradient_row({}, {2, 20, 17, 24}, 16);  // k in splits
  conv_gradient_row({}, {1, 64, 64, 8}, 8);    // k in splits that are added up
  conv_gradient_row({}, {1, 1, 1, 8}, 8);
  conv_gradient_row({3, 2, 1, 1}, {1, 16, 16, 320}, 16);
}

SUITE(convolutions_with_trained_kernels) {
  // The last ones as adapters of rank 1, 3, 4, 16.
  for (const auto& [channels, outputs] : {std::pair<int64_t, int64_t>{16, 24}, {7, 5}, {320, 16}, {320, 1}, {40, 3}, {64, 4}}) {
    op_row({Conv2d{}, {{Shape{2, 5, 6, channels}}, trained({9, outputs, channels})}});
    op_row({Conv2d{3, 2, 1, 1, {true, true}},
            {{Shape{1, 6, 6, channels}}, trained({9, outputs, channels}), {Shape{outputs}}, {Shape{1, 3, 3, outputs}}}});
    op_row({ConvTranspose2d{3, 1, 1, 1, 5, 6}, {{Shape{2, 5, 6, outputs}}, trained({9, outputs, channels})}});
    op_row({ConvTranspose2d{3, 2, 1, 1, 6, 6}, {{Shape{1, 3, 3, outputs}}, trained({9, outputs, channels})}});
  }
}

}  // namespace lorafuse::test
