// Rows that fill the largest tiles of the CUDA products. A GPU with many multiprocessors takes smaller ones for so few rows:
// native.test.ts runs these on an emulated GPU that has one.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

void tile_row(Op op, std::vector<Input> inputs) { op_row({std::move(op), std::move(inputs), nullptr, " filling tiles"}); }

}  // namespace

SUITE(tiles) {
  tile_row(MatMul{}, {{Shape{256, 64}}, {Shape{64, 64}}});
  for (int64_t columns : {16, 64, 128}) {
    tile_row(Conv2d{}, {{Shape{1, 16, 16, 64}}, {Shape{9, columns, 64}}});
    tile_row(ConvTranspose2d{.height = 16, .width = 16}, {{Shape{1, 16, 16, 64}}, {Shape{9, 64, columns}}});
  }
  const Shape x{256, 64};
  const Input w{Shape{128, 64}}, down{Shape{16, 64}}, up{Shape{128, 16}};
  const Input wt{Shape{64, 128}}, down_t{Shape{64, 16}}, up_t{Shape{16, 128}};
  tile_row(LoraMatMul{}, {{x}, w, down, up});
  tile_row(LoraMatMul{.epilogue = {.gate = Gate::geglu}}, {{x}, w, down, up});
  tile_row(LoraMatMulGrad{}, {{x}, wt, down_t, up_t});
  tile_row(LoraMatMulGrad{.epilogue = {.gate = Gate::geglu_grad}}, {{x}, wt, down_t, up_t, {Shape{256, 256}}});
}

}  // namespace lorafuse::test
