// Rows of upsample and its gradient.
#include "op_rows.h"

namespace lorafuse::test {

SUITE(upsample) {
  for (const Shape& s : {Shape{1, 1, 1, 1}, Shape{2, 3, 5, 7}, Shape{1, 5, 2, 16}, Shape{2, 4, 3, 36}, Shape{1, 16, 16, 320}}) {
    op_row({Upsample{}, {{s}}});
    op_row({UpsampleGrad{}, {{Shape{s[0], 2 * s[1], 2 * s[2], s[3]}}}});
  }
}

}  // namespace lorafuse::test
