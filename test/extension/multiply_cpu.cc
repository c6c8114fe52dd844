#include "cpu/loops.h"

namespace lorafuse::cpu {

template <> void run(const Multiply&, Context& c) {
  const float *a = c.in(0).f32(), *b = c.in(1).f32();
  for_elements(c, [a, b](int64_t i) { return a[i] * b[i]; });
}

}  // namespace lorafuse::cpu
