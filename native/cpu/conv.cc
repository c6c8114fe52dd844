// Convolutions as sums of products, one segment for each tap of the kernel: implicit GEMM, nothing is unfolded.
// A tile is a run of pixels of one row of the output; where a tap falls off the image, the tile's first or last pixels are left out.
// The transposed one is the same loop: pixel y gets tap k from x at (y + before − k) / stride, so with stride 2 each tile holds
// every second pixel, and taps of the other parity are skipped.
#include "gemm.h"
#include "winograd.h"

namespace lorafuse::cpu {
namespace {

// Output pixels (y, x0 + j·step) read input pixels at stride·(y, x0 + j·step) + tap − before.
template <class Convolution> struct ConvLoader {
  static constexpr bool kTransposed = std::is_same_v<Convolution, ConvTranspose2d>;
  const Convolution& op;
  const Tensor &x, &w, &y;
  const Tensor *bias, *residual;

  int64_t height() const { return y.shape[1]; }
  int64_t width() const { return y.shape[2]; }
  int64_t columns() const { return y.shape[3]; }
  int step() const { return kTransposed ? op.stride : 1; }
  // Pixels of one parity in a row, and how many tiles they make, even in size.
  int64_t pixels(int phase) const { return (width() - phase + step() - 1) / step(); }
  int64_t tiles_of(int phase) const { return (pixels(phase) + kTileRows - 1) / kTileRows; }
  int64_t tiles_per_row() const {
    int64_t sum = 0;
    for (int phase = 0; phase < step(); phase++) sum += tiles_of(phase);
    return sum;
  }
  int64_t tiles() const { return y.shape[0] * height() * tiles_per_row(); }
  int segments() const { return op.kernel * op.kernel; }
  int64_t depth(int) const { return x.shape[3]; }

  struct Position {
    int64_t image, row, x0;
    int count;
  };
  Position position(int64_t t) const {
    int64_t in_row = t % tiles_per_row();
    int phase = 0;
    for (; in_row >= tiles_of(phase); phase++) in_row -= tiles_of(phase);
    const int64_t n = pixels(phase), size = (n + tiles_of(phase) - 1) / tiles_of(phase), first = in_row * size;
    const int64_t line = t / tiles_per_row();
    return {line / height(), line % height(), phase + first * step(), static_cast<int>(std::clamp<int64_t>(n - first, 0, size))};
  }

  RowTile tile(int64_t t) const {
    const Position p = position(t);
    return {y.f32() + ((p.image * height() + p.row) * width() + p.x0) * columns(), step() * columns(), p.count};
  }

  // Sets the input coordinate that tap k reads for output coordinate `out`; false where it reads none.
  bool input_of(int64_t out, int k, int64_t& in) const {
    if constexpr (!kTransposed) {
      in = out * op.stride + k - op.before;
      return true;
    }
    in = out + op.before - k;
    if (in % op.stride != 0) return false;
    in /= op.stride;
    return true;
  }

  RowSource source(int tap, int64_t t) const {
    const Position p = position(t);
    const int64_t in_height = x.shape[1], in_width = x.shape[2], channels = x.shape[3];
    int64_t row, column;
    if (!input_of(p.row, tap / op.kernel, row) || row < 0 || row >= in_height || !input_of(p.x0, tap % op.kernel, column))
      return {{nullptr, 0, 1}, 0, 0};
    const int64_t move = kTransposed ? 1 : op.stride;
    const int64_t first = std::clamp<int64_t>((-column + move - 1) / move, 0, p.count);
    const int64_t last = column >= in_width ? 0 : std::clamp<int64_t>((in_width - column + move - 1) / move, 0, p.count);
    const float* a = x.f32() + ((p.image * in_height + row) * in_width + column + first * move) * channels;
    return {{a, move * channels, 1}, static_cast<int>(first), static_cast<int>(last)};
  }

  void init(const RowTile& tile, int64_t, int64_t column, int64_t count) const {
    init_tile(tile, column, count, bias, residual ? residual->f32() + (tile.c - y.f32()) : nullptr);
  }

  void pack(int tap, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    const int64_t outputs = w.shape[1], inputs = w.shape[2];
    with_elements(w, [&](const auto* data) {
      const auto* matrix = data + tap * outputs * inputs;  // [N, C]
      if constexpr (kTransposed) pack_rows(matrix + k * inputs + column, inputs, length, count, 1, packed);
      else pack_columns(matrix + column * inputs + k, inputs, length, count, 1, packed);
    });
  }
};

template <class Convolution> void convolve(const Convolution& op, Context& c) {
  const Tensor *bias = c.in_or_null(bias_input(op)), *residual = c.in_or_null(residual_input(op));
  if (const auto fast = winograd(op, c.in(0).shape, c.in(1).shape))
    return fast->run(c.in(0), c.in(1), c.out(0), bias, residual, c.threads, c.workspace);
  gemm(c.threads, ConvLoader<Convolution>{op, c.in(0), c.in(1), c.out(0), bias, residual}, c.workspace);
}

}  // namespace

template <> void run(const Conv2d& op, Context& c) { convolve(op, c); }
template <> void run(const ConvTranspose2d& op, Context& c) { convolve(op, c); }

}  // namespace lorafuse::cpu
