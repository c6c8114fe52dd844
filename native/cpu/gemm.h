// Products on the CPU: loader × main loop × epilogue. MatMul, WeightGrad and the convolutions are loaders over one main loop.
//
// c [rows, columns] = init + Σ_segments a_s [rows, k_s] · b_s [k_s, columns]
//
// b is packed into panels, a block of k at a time, in a buffer that stays in the L2 cache; the cells of a are broadcast from memory
// (panels.h). Every c element is summed in the order of k, whatever the split of the work.
#pragma once
#include <algorithm>

#include "kernels.h"
#include "panels.h"

namespace lorafuse::cpu {

constexpr int64_t kColumns = 160;                                                   // most columns of one job
constexpr size_t kPackBytes = cells(kDepth) * (kColumns + kPanel) * sizeof(float);  // one thread's packed block of b

// c [Rows, Vectors·kLanes] = a [Rows, depth] · b [depth, Vectors·kLanes], depth in cells, the accumulators in registers; added to what is
// there if `add`.
template <int Rows, int Vectors> void multiply_tile(int64_t depth, Strided a, const float* b, bool add, float* c, int64_t c_stride) {
  static constexpr float kZeros[kPanel] = {};
  const float* begin = add ? c : kZeros;
  const int64_t begin_stride = add ? c_stride : 0;
  Vector sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) sum[r][v] = load(begin + r * begin_stride + v * kLanes);
  const float* x = a.data;
  for (int64_t i = 0; i < depth; i++, x += a.k_stride, b += Vectors * kLanes) {
    Vector bv[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) bv[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Vector xv = splat_cell(x[r * a.row_stride]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) sum[r][v] = multiply_add(sum[r][v], xv, bv[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) store(c + r * c_stride + v * kLanes, sum[r][v]);
}

template <int Vectors, int Rows = kTileRows>
void multiply_rows(int rows, int64_t depth, Strided a, const float* b, bool add, float* c, int64_t c_stride) {
  if constexpr (Rows > 0) {
    if (rows == Rows) return multiply_tile<Rows, Vectors>(depth, a, b, add, c, c_stride);
    multiply_rows<Vectors, Rows - 1>(rows, depth, a, b, add, c, c_stride);
  }
}

// The same for up to kTileRows rows and one panel of b.
inline void multiply_panel(int rows, int64_t columns, int64_t depth, Strided a, const float* b, bool add, float* c, int64_t c_stride) {
  const auto multiply = columns > kLanes ? multiply_rows<2> : multiply_rows<1>;
  const int64_t width = padded(columns);
  if (columns == width) return multiply(rows, depth, a, b, add, c, c_stride);
  float edge[kTileRows * kPanel];
  const int64_t last = width - kLanes;  // where the vector begins that is not whole
  const auto for_row = [&](auto move) {
    for (int r = 0; r < rows; r++)
      for (int64_t j = 0; j < width; j += kLanes) move(edge + r * width + j, c + r * c_stride + j, j < last ? kLanes : columns - last);
  };
  if (add) for_row([](float* to, const float* from, int64_t count) { store(to, load_some(from, count)); });
  multiply(rows, depth, a, b, add, edge, width);
  for_row([](const float* from, float* to, int64_t count) { store_some(to, load(from), count); });
}

// c [rows, columns] = a · b, or added, for up to kTileRows rows, from cell `begin` of the `depth` that the panels of b have; of a from
// there on.
inline void multiply_panels(int rows, int64_t columns, int64_t cells, Strided a, const float* b, int64_t begin, int64_t depth, bool add,
                            float* c, int64_t c_stride) {
  for (int64_t n = 0; n < columns; n += kPanel) {
    const int64_t width = std::min<int64_t>(kPanel, columns - n);
    multiply_panel(rows, width, cells, a, b + n * depth + begin * padded(width), add, c + n, c_stride);
  }
}

// c [rows, columns] = a · b, or added to what is there, for any size; panel p of the packed b begins at b + p · kPanel · cells(k).
inline void multiply_packed(int64_t rows, int64_t columns, int64_t k, Strided a, const float* b, bool add, float* c, int64_t c_stride) {
  CellTile tile;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int count = static_cast<int>(std::min<int64_t>(kTileRows, rows - r));
    for (int64_t i = 0; i < k; i += CellTile::kMost) {
      const int64_t length = std::min(CellTile::kMost, k - i);
      const Strided x = tile.of(count, length, {a.data + r * a.row_stride + i * a.k_stride, a.row_stride, a.k_stride});
      multiply_panels(count, columns, cells(length), x, b, cells(i), cells(k), add || i > 0, c + r * c_stride, c_stride);
    }
  }
}

// The same with an a of cells: cell (row, k / kPerCell) is at data[row · row_stride + k / kPerCell · k_stride].
inline void multiply_cells(int64_t rows, int64_t columns, int64_t k, Strided a, const float* b, bool add, float* c, int64_t c_stride) {
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int count = static_cast<int>(std::min<int64_t>(kTileRows, rows - r));
    const Strided x{a.data + r * a.row_stride, a.row_stride, a.k_stride};
    multiply_panels(count, columns, cells(k), x, b, 0, cells(k), add, c + r * c_stride, c_stride);
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

// How columns are shared out: jobs of `width` each, the last ones of fewer or none.
struct ColumnJobs {
  int64_t count, width;
  explicit ColumnJobs(int64_t columns)
      : count((columns + kColumns - 1) / kColumns), width(((columns + count - 1) / count + kPanel - 1) / kPanel * kPanel) {}
};
// How deep a block of k is, so that all are alike; a multiple of `of`.
inline int64_t block_depth(int64_t depth, int64_t of) {
  const int64_t blocks = (depth + kDepth - 1) / kDepth;
  return ((depth + blocks - 1) / blocks + of - 1) / of * of;
}

// The driver. A Loader has:
//   int64_t columns() const, tiles() const; int segments() const; int64_t depth(int segment) const
//   RowTile tile(int64_t t) const; RowSource source(int segment, int64_t t) const  — a at k = 0
//   void init(const RowTile&, int64_t t, int64_t column, int64_t count) const      — before the first segment
//   void pack(int segment, int64_t k, int64_t depth, int64_t column, int64_t count, float* packed) const
template <class Loader> void gemm(Threads& threads, const Loader& loader, void* workspace) {
  const int64_t columns = loader.columns(), tiles = loader.tiles();
  const auto [column_jobs, width] = ColumnJobs(columns);
  // Enough jobs to share out evenly, each with enough rows that packing b again does not matter.
  const int64_t row_jobs = std::clamp<int64_t>((4 * threads.count() + column_jobs - 1) / column_jobs, 1, std::max<int64_t>(1, tiles / 8));
  const int64_t tiles_per_job = (tiles + row_jobs - 1) / row_jobs;
  threads.for_each(column_jobs * row_jobs, [&](int64_t job, int thread) {
    const int64_t n = job % column_jobs * width, count = std::min(width, columns - n);
    const int64_t begin = job / column_jobs * tiles_per_job, end = std::min(tiles, begin + tiles_per_job);
    if (count <= 0) return;
    float* packed = static_cast<float*>(workspace) + thread * (kPackBytes / sizeof(float));
    for (int s = 0; s < loader.segments(); s++) {
      const int64_t depth = loader.depth(s), block = block_depth(depth, kPerCell);
      for (int64_t k = 0; k < depth; k += block) {
        const int64_t length = std::min(block, depth - k);
        loader.pack(s, k, length, n, count, packed);
        for (int64_t t = begin; t < end; t++) {
          const RowTile tile = loader.tile(t);
          if (s == 0 && k == 0) loader.init(tile, t, n, count);
          const RowSource from = loader.source(s, t);
          if (from.first >= from.last) continue;
          const Strided a{from.a.data + k * from.a.k_stride, from.a.row_stride, from.a.k_stride};
          multiply_packed(from.last - from.first, count, length, a, packed, true, tile.c + from.first * tile.c_stride + n, tile.c_stride);
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
