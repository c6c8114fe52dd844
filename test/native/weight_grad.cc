// Rows of weight_grad, one or many in an op.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

void weight_gradient_row(int64_t rows, int64_t outputs, int64_t inputs, float scale = 1) {
  op_row({WeightGrad{{scale}}, {{Shape{rows, outputs}}, {Shape{rows, inputs}}}});
}
// Each [rows, N, K], in one op.
void gradients_row(const std::vector<std::array<int64_t, 3>>& matrices) {
  Row r{WeightGrad{{}}, {}};
  for (const auto& [rows, outputs, inputs] : matrices) {
    std::get<WeightGrad>(r.op).scales.push_back(1 + 0.25f * static_cast<float>(r.inputs.size()));
    r.inputs.insert(r.inputs.end(), {{Shape{rows, outputs}}, {Shape{rows, inputs}}});
  }
  op_row(std::move(r));
}

}  // namespace

SUITE(weight_grad) {
  for (int64_t width = 1; width <= 17; width++) weight_gradient_row(6, width, 18 - width);
  for (int64_t rows : {1, 13, 319, 320, 321, 700}) weight_gradient_row(rows, 16, 33, 0.5f);
  for (int64_t rank : {1, 4, 16, 64}) {
    weight_gradient_row(64, 320, rank, 0.25f);
    weight_gradient_row(64, rank, 320, 0.25f);
  }
  weight_gradient_row(50, 161, 65);
  gradients_row({{64, 16, 320}, {64, 320, 16}, {64, 16, 320}, {77, 16, 24}, {77, 320, 16}, {5, 2560, 16}});
  gradients_row({{700, 16, 40}, {33, 40, 16}, {1, 16, 8}});  // one is split, one is not
  gradients_row({{64, 4, 40}, {64, 40, 4}, {320, 64, 136}, {320, 136, 64}, {9, 3, 5}});
  gradients_row(std::vector<std::array<int64_t, 3>>(101, {9, 8, 16}));  // more than one launch takes
}

}  // namespace lorafuse::test
