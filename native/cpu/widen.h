// Rows of small weights (gamma, beta, embedding tables) as floats, whatever their type.
#pragma once
#include "vector.h"

namespace lorafuse::cpu {

// out [count] = elements begin … begin + count of t, which is f32, f16 or bf16.
inline void widen_row(const Tensor& t, int64_t begin, int64_t count, float* out) {
  with_elements(t, [&](const auto* data) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load(data + begin + i));
    for (; i < count; i++) out[i] = widen(data[begin + i]);
  });
}

}  // namespace lorafuse::cpu
