#include "winograd.h"

#include "gemm.h"

namespace lorafuse::cpu {
namespace {

constexpr int kPoints = 16;                               // products of a tile, 4 × 4
constexpr int64_t kBlockBytes = 24 << 20;                 // of transformed tiles of x and y: they stay in the last cache, more or less
constexpr int64_t kLeastTiles = kPerCell > 1 ? 128 : 48;  // fewer do not repay that weights are transformed
constexpr int64_t kLeastChannels = 64;
constexpr size_t kMixedBytes = kDepth * kColumns * sizeof(float);  // one thread's transformed weights, before they are packed

// The matrix G: how much of each tap is in each transformed weight.
constexpr float kMix[4][3] = {{1, 0, 0}, {0.5f, 0.5f, 0.5f}, {0.5f, -0.5f, 0.5f}, {0, 0, 1}};

// Bᵀ d along one side.
inline void transform(const Vector (&d)[4], Vector (&v)[4]) {
  v[0] = d[0] - d[2];
  v[1] = d[1] + d[2];
  v[2] = d[2] - d[1];
  v[3] = d[1] - d[3];
}

// A run of Winograd::run on a block of tiles.
struct Block {
  const Winograd& w;
  int64_t first, count;  // tiles
  float *x, *y;          // transformed: [point, tile, channel]

  // Calls f(tile of the block, image, first row, first column of its pixels of y) for each tile, on all threads.
  template <class F> void for_tiles(Threads& threads, F f) const {
    threads.for_ranges(count, 8, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const int64_t tile = first + t, row = tile / w.tiles_across();
        f(t, row / w.tiles_down(), 2 * (row % w.tiles_down()), 2 * (tile % w.tiles_across()));
      }
    });
  }

  void transform_x(Threads& threads, const float* pixels) const {
    for_tiles(threads, [&](int64_t t, int64_t image, int64_t top, int64_t left) {
      const float* at[kPoints];  // null: off the image
      for (int i = 0; i < kPoints; i++) {
        const int64_t row = top - 1 + i / 4, column = left - 1 + i % 4;
        const bool inside = row >= 0 && row < w.height && column >= 0 && column < w.width;
        at[i] = inside ? pixels + ((image * w.height + row) * w.width + column) * w.inputs : nullptr;
      }
      for (int64_t c = 0; c < w.inputs; c += kLanes) {
        Vector across[4][4];  // [column of the result, row of d]
        for (int row = 0; row < 4; row++) {
          Vector d[4], v[4];
          for (int i = 0; i < 4; i++) d[i] = at[4 * row + i] ? load(at[4 * row + i] + c) : Vector{};
          transform(d, v);
          for (int i = 0; i < 4; i++) across[i][row] = v[i];
        }
        for (int column = 0; column < 4; column++) {
          Vector v[4];
          transform(across[column], v);
          for (int row = 0; row < 4; row++) store(x + ((4 * row + column) * count + t) * w.inputs + c, v[row]);
        }
      }
    });
  }

  // The weights of a point for `depth` channels of x and `columns` of y, from k and n on, packed as multiply_packed() reads them.
  template <class Element>
  void pack(const Element* taps, int point, int64_t k, int64_t depth, int64_t n, int64_t columns, float* mixed, float* packed) const {
    const int64_t rows = w.transposed ? depth : columns, length = w.transposed ? columns : depth;
    const int64_t stride = w.transposed ? w.outputs : w.inputs, begin = w.transposed ? k * stride + n : n * stride + k;
    const float* down = kMix[point / 4];
    const float* across = kMix[point % 4];
    const Element* from[9];
    float share[9];
    int count = 0;
    for (int tap = 0; tap < 9; tap++) {
      const int at = w.transposed ? 8 - tap : tap;
      share[count] = down[at / 3] * across[at % 3];
      from[count] = taps + tap * w.inputs * w.outputs + begin;
      if (share[count] != 0) count++;
    }
    for (int64_t row = 0; row < rows; row++) {
      float* to = mixed + row * length;
      for (int64_t i = 0; i < length; i += kLanes) {
        Vector sum = load(from[0] + row * stride + i) * share[0];
        for (int j = 1; j < count; j++) sum += load(from[j] + row * stride + i) * share[j];
        store(to + i, sum);
      }
    }
    if (w.transposed) pack_rows(mixed, length, depth, columns, 1, packed);
    else pack_columns(mixed, length, depth, columns, 1, packed);
  }

  // The products, one for each point.
  template <class Element> void multiply(Threads& threads, const Element* taps, float* scratch) const {
    const auto [column_jobs, width] = ColumnJobs(w.outputs);
    const int64_t length = block_depth(w.inputs, kLanes);
    // Enough jobs for all threads, each with enough tiles to repay that it transforms the weights.
    const int64_t wanted = (4 * threads.count() + kPoints * column_jobs - 1) / (kPoints * column_jobs);
    const int64_t tile_jobs = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, count / kLeastTiles));
    const int64_t tiles = (count + tile_jobs - 1) / tile_jobs;
    threads.for_each(kPoints * column_jobs * tile_jobs, [&](int64_t job, int thread) {
      const auto point = static_cast<int>(job / column_jobs / tile_jobs);
      const int64_t n = job % column_jobs * width, columns = std::min(width, w.outputs - n);
      const int64_t t = job / column_jobs % tile_jobs * tiles, rows = std::min(tiles, count - t);
      if (columns <= 0 || rows <= 0) return;
      float* mixed = scratch + thread * ((kMixedBytes + kPackBytes) / sizeof(float));
      float* packed = mixed + kMixedBytes / sizeof(float);
      const float* a = x + (point * count + t) * w.inputs;
      float* c = y + (point * count + t) * w.outputs + n;
      for (int64_t k = 0; k < w.inputs; k += length) {
        const int64_t depth = std::min(length, w.inputs - k);
        pack(taps, point, k, depth, n, columns, mixed, packed);
        multiply_packed(rows, columns, depth, {a + k, w.inputs, 1}, packed, k > 0, c, w.outputs);
      }
    });
  }

  // y = Aᵀ m A + bias + residual
  void transform_y(Threads& threads, float* pixels, const float* bias, const float* residual) const {
    for_tiles(threads, [&](int64_t t, int64_t image, int64_t top, int64_t left) {
      const int64_t corner = (image * w.height + top) * w.width + left;
      for (int64_t n = 0; n < w.outputs; n += kLanes) {
        Vector across[4][2];
        for (int row = 0; row < 4; row++) {
          Vector m[4];
          for (int i = 0; i < 4; i++) m[i] = load(y + ((4 * row + i) * count + t) * w.outputs + n);
          across[row][0] = m[0] + m[1] + m[2];
          across[row][1] = m[1] - m[2] - m[3];
        }
        for (int row = 0; row < std::min<int64_t>(2, w.height - top); row++)
          for (int column = 0; column < std::min<int64_t>(2, w.width - left); column++) {
            const auto m = [&](int i) { return across[i][column]; };
            Vector sum = row == 0 ? m(0) + m(1) + m(2) : m(1) - m(2) - m(3);
            const int64_t at = (corner + row * w.width + column) * w.outputs + n;
            if (bias) sum += load(bias + n);
            if (residual) sum += load(residual + at);
            store(pixels + at, sum);
          }
      }
    });
  }
};

}  // namespace

int64_t Winograd::block() const {
  const int64_t most = std::max<int64_t>(kBlockBytes / static_cast<int64_t>(kPoints * (inputs + outputs) * sizeof(float)), kLeastTiles);
  const int64_t blocks = (tiles() + most - 1) / most;
  return (tiles() + blocks - 1) / blocks;
}

size_t Winograd::workspace_bytes(int threads) const {
  return threads * (kMixedBytes + kPackBytes) + (kPoints * block() * (inputs + outputs) + outputs) * sizeof(float);
}

void Winograd::run(const Tensor& x, const Tensor& w, const Tensor& y, const Tensor* bias, const Tensor* residual, Threads& threads,
                   void* workspace) const {
  auto* scratch = static_cast<float*>(workspace);
  float* transformed = scratch + threads.count() * ((kMixedBytes + kPackBytes) / sizeof(float));
  float* widened = transformed + kPoints * block() * (inputs + outputs);
  if (bias) widen_row(*bias, 0, outputs, widened);
  for (int64_t first = 0; first < tiles(); first += block()) {
    const Block part{*this, first, std::min(block(), tiles() - first), transformed, transformed + kPoints * block() * inputs};
    part.transform_x(threads, x.f32());
    with_elements(w, [&](const auto* taps) { part.multiply(threads, taps, scratch); });
    part.transform_y(threads, y.f32(), bias ? widened : nullptr, residual ? residual->f32() : nullptr);
  }
}

template <class Convolution> std::optional<Winograd> winograd(const Convolution& op, const Shape& x, const Shape& w) {
  constexpr bool kTransposed = std::is_same_v<Convolution, ConvTranspose2d>;
  if (op.kernel != 3 || op.stride != 1 || op.before != 1) return std::nullopt;
  if constexpr (kTransposed) {
    if (op.height != x[1] || op.width != x[2]) return std::nullopt;
  } else if (op.after != 1) {
    return std::nullopt;
  }
  const Winograd all{x[0], x[1], x[2], x[3], w[kTransposed ? 2 : 1], kTransposed};
  const auto is_fit = [](int64_t channels) { return channels >= kLeastChannels && channels % kLanes == 0; };
  if (!is_fit(all.inputs) || !is_fit(all.outputs) || all.tiles() < kLeastTiles) return std::nullopt;
  return all;
}
template std::optional<Winograd> winograd(const Conv2d&, const Shape&, const Shape&);
template std::optional<Winograd> winograd(const ConvTranspose2d&, const Shape&, const Shape&);

}  // namespace lorafuse::cpu
