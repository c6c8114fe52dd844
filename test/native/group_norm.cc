// Rows of group_norm and its gradient: SD's groups cut down, odd widths, one position, data far from 0.
#include "op_rows.h"
#include "reference.h"

namespace lorafuse::test {
namespace {

void group_rows(const Shape& x, int groups, bool silu, DType dtype = DType::f32, Data data = {}) {
  const Shape channels{x[-1]};
  const Input beta{channels, dtype};
  const float eps = 1e-5f;
  op_row({GroupNorm{groups, eps, silu}, {scaled(x, data), gamma(channels, dtype), beta}});
  Row back{GroupNormGrad{groups, silu}, {scaled(x, data), gamma(channels, dtype), beta, {Shape{x[0], groups, 2}}, {x}}};
  back.derive = [=](std::vector<Array<double>>& in) {
    Array<double> y(x);
    compute<double>(GroupNorm{groups, eps, silu}, {{&in[0], &in[1], &in[2]}, {&y, &in[3]}});
  };
  norm_gradient_rows<GroupNormGrad>(std::move(back));
}

}  // namespace

SUITE(group_norm) {
  for (bool silu : {false, true}) {
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) group_rows({2, 5, 7, 12}, 4, silu, dtype);
    for (int64_t channels = 1; channels <= 17; channels++) {
      group_rows({1, 3, 4, channels}, 1, silu);
      if (channels > 1) group_rows({1, 3, 4, channels}, static_cast<int>(channels), silu);
    }
    group_rows({1, 1, 1, 24}, 4, silu);
    group_rows({1, 8, 8, 320}, 32, silu);
    group_rows({2, 4, 4, 1280}, 32, silu);
    group_rows({1, 40, 41, 8}, 2, silu);  // several chunks of rows
    group_rows({3, 257, 1, 6}, 3, silu);
    group_rows({2, 21, 20, 80}, 8, silu);  // vectors of two groups, several chunks
    group_rows({1, 3, 4, 514}, 1, silu);   // a group wider than a block of the GPU
  }
  group_rows({1, 21, 20, 80}, 8, true, DType::f32, {1, 100});
  group_rows({1, 8, 8, 32}, 8, false, DType::f32, {1, 100});
  group_rows({1, 8, 8, 32}, 8, true, DType::f32, {1e-3f, 0});
}

}  // namespace lorafuse::test
