// Gradients of trainable matrices and convolution kernels: each tap of a kernel is a matrix whose x are the pixels under it. See gemm.h.
#include "gemm.h"

namespace lorafuse::cpu {
namespace {

// g [N, C] += yᵀ [N, M] · x [M, C]: the sum runs over the rows of y.
struct GradLoader {
  const Tensor &y, &x;
  float* g;

  int64_t rows() const { return y.shape[-1]; }
  int64_t columns() const { return x.shape[-1]; }
  int64_t tiles() const { return row_tiles(rows()); }
  int segments() const { return 1; }
  int64_t depth(int) const { return y.shape.rows(); }
  RowTile tile(int64_t t) const { return row_tile(g, rows(), columns(), t); }
  RowSource source(int, int64_t t) const { return {{y.f32() + t * kTileRows, 1, rows()}, 0, tile(t).rows}; }
  void init(const RowTile&, int64_t, int64_t, int64_t) const {}  // adds to what is there
};

struct MatrixLoader : GradLoader {
  float scale;

  void pack(int, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    pack_rows(x.f32() + k * columns() + column, columns(), length, count, scale, packed);
  }
};

struct TapLoader : GradLoader {
  const ConvWeightGrad& op;
  int tap;

  // The pixel of x under the tap for a pixel of y; null where that falls off the image.
  const float* under(int64_t pixel) const {
    const int64_t width = y.shape[2], height = y.shape[1], image = pixel / width / height;
    const int64_t row = pixel / width % height * op.stride + tap / op.kernel - op.before;
    const int64_t column = pixel % width * op.stride + tap % op.kernel - op.before;
    if (row < 0 || row >= x.shape[1] || column < 0 || column >= x.shape[2]) return nullptr;
    return x.f32() + ((image * x.shape[1] + row) * x.shape[2] + column) * columns();
  }
  void pack(int, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    for (int64_t n = 0; n < count; n += kPanel) {
      const int64_t width = std::min<int64_t>(kPanel, count - n);
      const auto row = [&](int64_t i) {
        const float* from = i < length ? under(k + i) : nullptr;
        return from ? from + column + n : nullptr;
      };
      for (int64_t i = 0; i < length; i += kPerCell, packed += padded(width)) pack_row(row(i), row(i + 1), width, 1, packed);
    }
  }
};

}  // namespace

template <> void run(const WeightGrad& op, Context& c) {
  for (size_t i = 0; i < op.scales.size(); i++)
    gemm(c.threads, MatrixLoader{{c.in(2 * i), c.in(2 * i + 1), c.out(i).f32()}, op.scales[i]}, c.workspace);
}

template <> void run(const ConvWeightGrad& op, Context& c) {
  const int64_t elements = c.out(0).shape[1] * c.out(0).shape[2];
  for (int tap = 0; tap < op.kernel * op.kernel; tap++)
    gemm(c.threads, TapLoader{{c.in(0), c.in(1), c.out(0).f32() + tap * elements}, op, tap}, c.workspace);
}

}  // namespace lorafuse::cpu
