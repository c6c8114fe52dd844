// Operands of products in the order in which the main loop reads them (gemm.h).
// b is widened, scaled and packed into panels of 2 vectors, in rows of cells, padded to whole vectors and cells with zeros.
#pragma once
#include <algorithm>

#include "cells.h"

namespace lorafuse::cpu {

constexpr int kPanel = 2 * kLanes;          // columns of a full panel
constexpr int64_t kDepth = 320 * kPerCell;  // most of k in one block

// Columns of a panel that has `width` of them, with padding.
inline int64_t padded(int64_t width) { return width > kLanes ? kPanel : kLanes; }
// `n`, up to whole vectors.
inline int64_t whole(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
// The size in floats of a packed b [k, columns], at most.
inline int64_t packed_size(int64_t k, int64_t columns) { return cells(k) * ((columns + kPanel - 1) / kPanel * kPanel); }

// Packs a row of cells of a panel: `width` columns of b at k, and at k + 1, which are zeros where the pointer is null.
template <class Element> void pack_row(const Element* first, const Element* second, int64_t width, float scale, float* packed) {
  for (int64_t j = 0; j < padded(width); j += kLanes) {
    const int64_t valid = std::clamp<int64_t>(width - j, 0, kLanes);
    const Vector below = kPerCell > 1 && second ? load_some(second + j, valid) * scale : Vector{};
    store(packed + j, cells_of(first ? load_some(first + j, valid) * scale : Vector{}, below));
  }
}

// Packs b [k, columns] whose element (i, n) is source[i · stride + n] · scale.
template <class Element> void pack_rows(const Element* source, int64_t stride, int64_t k, int64_t columns, float scale, float* packed) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n);
    for (int64_t i = 0; i < k; i += kPerCell, packed += padded(width)) {
      const Element* row = source + i * stride + n;
      pack_row(row, i + 1 < k ? row + stride : nullptr, width, scale, packed);
    }
  }
}

// Packs b [k, columns] whose element (i, n) is source[n · stride + i] · scale.
template <class Element> void pack_columns(const Element* source, int64_t stride, int64_t k, int64_t columns, float scale, float* packed) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n);
    for (int64_t half = 0; half < padded(width); half += kLanes) {
      const int64_t valid = std::clamp<int64_t>(width - half, 0, kLanes);
      const Element* block = source + (n + half) * stride;
      for (int64_t i = 0; i < k; i += kLanes * kPerCell) {
        Vector rows[kLanes];
        for (int j = 0; j < kLanes; j++) rows[j] = j < valid ? load_cells(block + j * stride + i, k - i, scale) : Vector{};
        transpose(rows);
        const int64_t first = i / kPerCell, count = std::min<int64_t>(kLanes, cells(k) - first);
        for (int64_t j = 0; j < count; j++) store(packed + (first + j) * padded(width) + half, rows[j]);
      }
    }
    packed += cells(k) * padded(width);
  }
}

// Element (row, k) of an operand is at data[row · row_stride + k · k_stride]; or cell (row, k / kPerCell).
struct Strided {
  const float* data;
  int64_t row_stride, k_stride;
};

// A tile of a as cells: where a cell holds one element it is read where it lies, else rounded into memory of its own. One of the strides
// is 1.
#if defined(__AVX512BF16__)
class CellTile {
 public:
  static constexpr int64_t kMost = kDepth;  // of k
  Strided of(int rows, int64_t k, Strided a) {
    if (a.k_stride == 1) {
      const int64_t stride = whole(cells(k));
      for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < k; i += kLanes * kPerCell)
          store(cells_ + r * stride + i / kPerCell, load_cells(a.data + r * a.row_stride + i, k - i, 1));
      return {cells_, stride, 1};
    }
    for (int64_t i = 0; i < k; i += kPerCell) {
      const float* first = a.data + i * a.k_stride;
      const Vector second = i + 1 < k ? load_some(first + a.k_stride, rows) : Vector{};
      store(cells_ + i / kPerCell * kLanes, cells_of(load_some(first, rows), second));
    }
    return {cells_, 1, kLanes};
  }

 private:
  alignas(64) float cells_[kDepth / kPerCell * kLanes];
};
#else
struct CellTile {
  static constexpr int64_t kMost = int64_t{1} << 60;
  Strided of(int, int64_t, Strided a) { return a; }
};
#endif

}  // namespace lorafuse::cpu
