// Rows of the ops that move elements.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

// Odd sizes, several jobs, batches.
const Shape kCopied[] = {{1, 1}, {2, 3, 17}, {2, 5, 7, 16}, {3, 64, 320}};

Input ids(Shape shape, int64_t vocabulary) {
  return {std::move(shape), DType::i32, [=](Random& random) { return static_cast<float>(random.below(vocabulary)); }};
}
}  // namespace

SUITE(copies) {
  for (const Shape& s : kCopied) {
    op_row({Concat{}, {{s}, {s.with_channels(s[-1] + 3)}}});
    op_row({Slice{0, s[-1]}, {{s.with_channels(s[-1] + 3)}}});
    op_row({Slice{3, s[-1] + 3}, {{s.with_channels(s[-1] + 3)}}});
  }
  op_row({Slice{4, 12}, {{Shape{3, 12}}}});  // 8 bytes at a time in 16-bit types
}

SUITE(embedding) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (int64_t channels : {1, 15, 16, 17, 768})
      op_row({Embedding{}, {ids({2, 7}, 30), {Shape{30, channels}, dtype}, {Shape{9, channels}, dtype}}});
}

SUITE(gather) {
  // Each row once as a context takes them, rows that are gathered often and rows that are not, more of them than a warp has lanes.
  for (const auto& [x, rows] : std::vector<std::pair<Shape, Shape>>{{{1, 1}, {1}},
                                                                    {{7, 17}, {2, 3}},
                                                                    {{2, 9, 16}, {40}},
                                                                    {{3, 77, 24}, {1, 227}},
                                                                    {{2, 77, 768}, {2, 77}},
                                                                    {{4, 8}, {130}},
                                                                    {{5, 300}, {9}}}) {
    op_row({Gather{}, {{x}, ids(rows, x.rows())}});
    op_row({GatherGrad{x}, {ids(rows, x.rows()), {rows.followed_by(x[-1])}}});
  }
}

}  // namespace lorafuse::test
