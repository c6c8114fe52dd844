// Rows of mat_mul: every width to 17, the edges of panels, tiles, jobs and blocks of depth, SD's own cut down.
#include "product_rows.h"

namespace lorafuse::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

}  // namespace

SUITE(mat_mul) {
  for (DType dtype : kTypes) {
    product_row({7, 1}, 40, {33}, dtype);
    product_row({7, 1}, 40, {33}, dtype, {{1, true}});
    product_row({2, 9, 1}, 48, {40}, dtype, {{}}, {true, false});
    product_row({2, 3, 5, 1}, 70, {65}, dtype, {{0.5f, true}}, {true, true});
    product_row({1, 77, 1}, 64, {768}, dtype);                                                  // k and v of cross attention
    product_row({1, 4, 4, 1}, 1280, {320}, dtype, {{}}, {true, false});                         // the feed-forward's projection
    product_row({1, 8, 8, 1}, 80, {320, 16}, dtype, {{}, {0.25f}}, {true, true});               // with an adapter
    product_row({1, 8, 8, 1}, 80, {96, 16}, dtype, {{1, true}, {0.25f, true}}, {false, true});  // its input gradient
  }
  for (int64_t width = 1; width <= 17; width++) {
    product_row({3, 1}, width, {18 - width});
    product_row({5, 1}, width, {18 - width}, DType::f16, {{1, true}});
  }
  for (int64_t columns : {31, 32, 33, 47, 48, 49, 63, 64, 65, 159, 160, 161, 319, 320, 321}) product_row({5, 1}, columns, {19});
  for (int64_t rows : {1, 5, 6, 7, 13, 14, 15, 28, 29, 130}) product_row({rows, 1}, 35, {20}, DType::f32, {{}}, {true, true});
  for (int64_t depth : {319, 320, 321, 639, 640, 641, 1500}) product_row({9, 1}, 34, {depth}, DType::bf16);
  product_row({200, 1}, 330, {33});        // several jobs both ways
  for (bool transposed : {false, true}) {  // the GPU's larger tiles
    product_row({384, 1}, 512, {64}, DType::f32, {{1, transposed}}, {true, true});
    product_row({260, 1}, 264, {72}, DType::f32, {{1, transposed}});
    product_row({3, 1}, 1280, {648}, DType::f32, {{1, transposed}}, {true, true});  // k in parts
  }
  product_row({4, 1}, 20, {7, 3, 321}, DType::f32, {{}, {-2, true}, {0.125f}});
}

}  // namespace lorafuse::test
