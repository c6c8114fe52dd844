// Loops over the elements or rows of a tensor, shared out in pieces. Each op that uses them is bound by memory.
#pragma once
#include <algorithm>

#include "kernels.h"

namespace lorafuse::cpu {

constexpr int64_t kPiece = 1 << 15;  // elements of a job: they stay in the L2 cache between two passes
inline int64_t rows_per_piece(int64_t channels) { return std::max<int64_t>(1, kPiece / std::max<int64_t>(1, channels)); }

// y[i] = f(i) for every element.
template <class F> void for_elements(Context& c, F f) {
  float* y = c.out(0).f32();
  c.threads.for_ranges(c.out(0).shape.elements(), kPiece, [y, f](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = f(i);
  });
}

// Calls f(row) for each row, in pieces of rows that touch `channels` elements.
template <class F> void for_rows(Context& c, int64_t rows, int64_t channels, F f) {
  c.threads.for_ranges(rows, rows_per_piece(channels), [f](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) f(r);
  });
}

// to += x
inline void add_row(const float* x, int64_t count, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) to[i] += x[i];
}

}  // namespace lorafuse::cpu
