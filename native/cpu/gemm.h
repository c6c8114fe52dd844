// Products on the CPU: loader × main loop × epilogue. MatMul, WeightGrad and the convolutions are loaders over one main loop.
//
// c [rows, columns] = init + Σ_segments a_s [rows, k_s] · b_s [k_s, columns]
//
// b is widened, scaled and packed into panels of 2 vectors, a block of k at a time, in a buffer that stays in the L2 cache;
// a is read where it lies, its elements broadcast from memory. Every c element is summed in the order of k, whatever the split of the work.
#pragma once
#include <algorithm>

#include "kernels.h"
#include "vector.h"

namespace lorafuse::cpu {

constexpr int kPanel = 2 * kLanes;                                             // columns of a full panel
constexpr int64_t kDepth = 320;                                                // most of k in one block
constexpr int64_t kColumns = 160;                                              // most columns of one job
constexpr size_t kPackBytes = (kDepth * (kColumns + kPanel)) * sizeof(float);  // one thread's packed block of b

// Element (row, k) of an operand is at data[row · row_stride + k · k_stride].
struct Strided {
  const float* data;
  int64_t row_stride, k_stride;
};

// c [Rows, Vectors·kLanes] += a [Rows, k] · b [k, Vectors·kLanes], the accumulators in registers.
template <int Rows, int Vectors> void multiply_tile(int64_t k, Strided a, const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  Vector sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) sum[r][v] = load(c + r * c_stride + v * kLanes);
  const float* x = a.data;
  for (int64_t i = 0; i < k; i++, x += a.k_stride, b += b_stride) {
    Vector bv[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) bv[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Vector xv = splat(x[r * a.row_stride]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) sum[r][v] += xv * bv[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) store(c + r * c_stride + v * kLanes, sum[r][v]);
}

template <int Vectors, int Rows = kTileRows>
void multiply_rows(int rows, int64_t k, Strided a, const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  if constexpr (Rows > 0) {
    if (rows == Rows) return multiply_tile<Rows, Vectors>(k, a, b, b_stride, c, c_stride);
    multiply_rows<Vectors, Rows - 1>(rows, k, a, b, b_stride, c, c_stride);
  }
}

// c [rows, columns] += a · b for up to kTileRows rows and one panel of b, `b_stride` floats a row, padded to whole vectors.
inline void multiply_panel(int rows, int64_t columns, int64_t k, Strided a, const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  const bool wide = columns > kLanes;
  const int64_t width = wide ? kPanel : kLanes;
  if (columns == width) {
    wide ? multiply_rows<2>(rows, k, a, b, b_stride, c, c_stride) : multiply_rows<1>(rows, k, a, b, b_stride, c, c_stride);
    return;
  }
  float edge[kTileRows * kPanel] = {};
  for (int r = 0; r < rows; r++) std::copy_n(c + r * c_stride, columns, edge + r * width);
  wide ? multiply_rows<2>(rows, k, a, b, b_stride, edge, width) : multiply_rows<1>(rows, k, a, b, b_stride, edge, width);
  for (int r = 0; r < rows; r++) std::copy_n(edge + r * width, columns, c + r * c_stride);
}

// c [rows, columns] += a · b for any size; panel p of the packed b begins at b + p · kPanel · k.
inline void multiply_packed(int64_t rows, int64_t columns, int64_t k, Strided a, const float* b, float* c, int64_t c_stride) {
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int tile = static_cast<int>(std::min<int64_t>(kTileRows, rows - r));
    const Strided at{a.data + r * a.row_stride, a.row_stride, a.k_stride};
    for (int64_t n = 0; n < columns; n += kPanel) {
      const int64_t width = std::min<int64_t>(kPanel, columns - n);
      multiply_panel(tile, width, k, at, b + n * k, width > kLanes ? kPanel : kLanes, c + r * c_stride + n, c_stride);
    }
  }
}

// Packs b [k, columns] whose element (i, n) is source[i · stride + n] · scale.
template <class Element> void pack_rows(const Element* source, int64_t stride, int64_t k, int64_t columns, float scale, float* packed) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n), padded = width > kLanes ? kPanel : kLanes;
    for (int64_t i = 0; i < k; i++, packed += padded) {
      const Element* row = source + i * stride + n;
      int64_t j = 0;
      for (; j + kLanes <= width; j += kLanes) store(packed + j, load(row + j) * scale);
      for (; j < width; j++) packed[j] = widen(row[j]) * scale;
      for (; j < padded; j++) packed[j] = 0;
    }
  }
}

// Packs b [k, columns] whose element (i, n) is source[n · stride + i] · scale.
template <class Element> void pack_columns(const Element* source, int64_t stride, int64_t k, int64_t columns, float scale, float* packed) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n), padded = width > kLanes ? kPanel : kLanes;
    for (int64_t half = 0; half < padded; half += kLanes) {
      const int64_t valid = std::clamp<int64_t>(width - half, 0, kLanes);
      const Element* block = source + (n + half) * stride;
      int64_t i = 0;
      for (; i + kLanes <= k; i += kLanes) {
        Vector rows[kLanes];
        for (int j = 0; j < kLanes; j++) rows[j] = j < valid ? load(block + j * stride + i) * scale : Vector{};
        transpose(rows);
        for (int j = 0; j < kLanes; j++) store(packed + (i + j) * padded + half, rows[j]);
      }
      for (; i < k; i++)
        for (int j = 0; j < kLanes; j++) packed[i * padded + half + j] = j < valid ? widen(block[j * stride + i]) * scale : 0;
    }
    packed += k * padded;
  }
}

// A tile of output rows, at most kTileRows of them.
struct RowTile {
  float* c;          // of column 0
  int64_t c_stride;  // floats between rows
  int rows;
};
// Tile t of a matrix c [rows, columns].
inline RowTile row_tile(float* c, int64_t rows, int64_t columns, int64_t t) {
  return {c + t * kTileRows * columns, columns, static_cast<int>(std::min<int64_t>(kTileRows, rows - t * kTileRows))};
}
inline int64_t row_tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// The operand a of a segment for a tile: it has rows [first, last) of the tile, beginning at `a`; none where first ≥ last.
struct RowSource {
  Strided a;
  int first, last;
};

// The driver. A Loader has:
//   int64_t columns() const, tiles() const; int segments() const; int64_t depth(int segment) const
//   RowTile tile(int64_t t) const; RowSource source(int segment, int64_t t) const  — a at k = 0
//   void init(const RowTile&, int64_t t, int64_t column, int64_t count) const      — before the first segment
//   void pack(int segment, int64_t k, int64_t depth, int64_t column, int64_t count, float* packed) const
template <class Loader> void gemm(Threads& threads, const Loader& loader, void* workspace) {
  const int64_t columns = loader.columns(), tiles = loader.tiles();
  const int64_t column_jobs = (columns + kColumns - 1) / kColumns;
  const int64_t width = ((columns + column_jobs - 1) / column_jobs + kPanel - 1) / kPanel * kPanel;
  // Enough jobs to share out evenly, each with enough rows that packing b again does not matter.
  const int64_t row_jobs = std::clamp<int64_t>((4 * threads.count() + column_jobs - 1) / column_jobs, 1, std::max<int64_t>(1, tiles / 8));
  const int64_t tiles_per_job = (tiles + row_jobs - 1) / row_jobs;
  threads.for_each(column_jobs * row_jobs, [&](int64_t job, int thread) {
    const int64_t n = job % column_jobs * width, count = std::min(width, columns - n);
    const int64_t begin = job / column_jobs * tiles_per_job, end = std::min(tiles, begin + tiles_per_job);
    if (count <= 0) return;
    float* packed = static_cast<float*>(workspace) + thread * (kPackBytes / sizeof(float));
    for (int s = 0; s < loader.segments(); s++) {
      const int64_t depth = loader.depth(s), blocks = (depth + kDepth - 1) / kDepth, block = (depth + blocks - 1) / blocks;
      for (int64_t k = 0; k < depth; k += block) {
        const int64_t length = std::min(block, depth - k);
        loader.pack(s, k, length, n, count, packed);
        for (int64_t t = begin; t < end; t++) {
          const RowTile tile = loader.tile(t);
          if (s == 0 && k == 0) loader.init(tile, t, n, count);
          const RowSource from = loader.source(s, t);
          if (from.first >= from.last) continue;
          const Strided a{from.a.data + k * from.a.k_stride, from.a.row_stride, from.a.k_stride};
          multiply_packed(from.last - from.first, count, length, a, packed, tile.c + from.first * tile.c_stride + n, tile.c_stride);
        }
      }
    }
  });
}

// c = bias + residual for `count` columns of a tile; either may be null. residual has c's layout and points at the tile's first row.
inline void init_tile(const RowTile& tile, int64_t column, int64_t count, const Tensor* bias, const float* residual) {
  for (int r = 0; r < tile.rows; r++) {
    float* c = tile.c + r * tile.c_stride + column;
    if (residual) std::copy_n(residual + r * tile.c_stride + column, count, c);
    else std::fill_n(c, count, 0.0f);
    if (bias)
      with_elements(*bias, [&](const auto* b) {
        for (int64_t j = 0; j < count; j++) c[j] += widen(b[column + j]);
      });
  }
}

}  // namespace lorafuse::cpu
