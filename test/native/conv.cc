// Rows of conv2d and conv2d_input_grad: 1×1 and 3×3, both strides, the UNet's padding (1, 1) and the VAE encoder's (0, 1), odd sizes.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

struct Window {
  int kernel = 3, stride = 1, before = 1, after = 1;
};
constexpr Window kSame{}, kPoint{1, 1, 0, 0}, kHalf{3, 2, 1, 1}, kVae{3, 2, 0, 1}, kPointHalf{1, 2, 0, 0};

int64_t extent(const Window& w, int64_t size) { return (size + w.before + w.after - w.kernel) / w.stride + 1; }

// x [B, H, W, C] to N channels, forward and back.
void row(const Window& w, const Shape& x, int64_t outputs, DType dtype = DType::f32, bool bias = false, bool residual = false) {
  const Shape weights{w.kernel * w.kernel, outputs, x[3]}, y{x[0], extent(w, x[1]), extent(w, x[2]), outputs};
  Row forward{Conv2d{w.kernel, w.stride, w.before, w.after, bias, residual}, {{x}, {weights, dtype}}};
  if (bias) forward.inputs.push_back({Shape{outputs}, dtype});
  if (residual) forward.inputs.push_back({y});
  op_row(std::move(forward));
  Row back{Conv2dInputGrad{w.kernel, w.stride, w.before, w.after, x[1], x[2], residual}, {{y}, {weights, dtype}}};
  if (residual) back.inputs.push_back({x});
  op_row(std::move(back));
}

}  // namespace

SUITE(conv2d) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    row(kSame, {2, 5, 7, 6}, 9, dtype, true, true);
    row(kHalf, {2, 7, 6, 33}, 40, dtype, true);
    row(kVae, {1, 8, 6, 16}, 33, dtype, true);
    row(kPoint, {2, 3, 5, 20}, 17, dtype, true, true);
  }
  for (const Window& w : {kSame, kHalf, kVae})
    for (int64_t height : {1, 2, 3, 4, 15})
      for (int64_t width : {1, 2, 3, 14, 15, 16, 29, 31})
        if (extent(w, height) > 0 && extent(w, width) > 0 && (height * width <= 60 || height == 15)) row(w, {1, height, width, 3}, 5);
  for (int64_t channels = 1; channels <= 17; channels++) row(kSame, {1, 3, 4, channels}, 18 - channels);
  for (int64_t outputs : {31, 32, 33, 63, 64, 65, 160, 161}) row(kSame, {1, 2, 5, 7}, outputs, DType::f16);
  row(kPointHalf, {2, 5, 4, 8}, 6);
  row(kSame, {1, 8, 8, 4}, 64, DType::f32, true);          // conv_in
  row(kSame, {1, 8, 8, 64}, 4, DType::f32, true);          // conv_out
  row(kSame, {1, 4, 4, 321}, 48, DType::f32, true, true);  // deeper than a chunk
  row(kHalf, {1, 8, 8, 320}, 32, DType::bf16, true);
  row(kSame, {1, 16, 17, 24}, 168, DType::f32, true);
}

}  // namespace lorafuse::test
