// Rows of layer_norm and its gradient: odd widths, SD's and CLIP's, data far from 0.
#include "op_rows.h"
#include "reference.h"

namespace lorafuse::test {
namespace {

void layer_rows(const Shape& x, DType dtype = DType::f32, Data data = {}) {
  const Shape channels{x[-1]};
  op_row({LayerNorm{}, {scaled(x, data), gamma(channels, dtype), {channels, dtype}}});
  if (x[-1] == 1) return;  // dx is 0: what is left of it is rounding, and nothing to measure against
  Row back{LayerNormGrad{}, {scaled(x, data), gamma(channels, dtype), {Shape{x.rows(), 2}}, {x}}};
  back.derive = [=](std::vector<Array<double>>& in) {
    Array<double> y(x), beta(channels);
    compute<double>(LayerNorm{}, {{&in[0], &in[1], &beta}, {&y, &in[2]}});
  };
  norm_gradient_rows<LayerNormGrad>(std::move(back));
}

}  // namespace

SUITE(layer_norm) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) layer_rows({2, 9, 40}, dtype);
  for (int64_t channels = 1; channels <= 17; channels++) layer_rows({2, 3, channels});
  for (int64_t channels : {31, 33, 64, 65, 320, 640, 768, 1280, 2560, 2568}) layer_rows({1, 5, channels});
  layer_rows({1, 4, 4, 320});
  layer_rows({1, 1, 1});
  layer_rows({3, 320}, DType::f32, {1, 100});
  layer_rows({4, 320}, DType::f32, {1e-3f, 0});
}

}  // namespace lorafuse::test
