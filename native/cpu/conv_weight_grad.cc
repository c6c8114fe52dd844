// Gradients of trainable convolution kernels: each tap is a weight gradient whose x are the pixels under the tap. See gemm.h.
#include "gemm.h"

namespace lorafuse::cpu {
namespace {

// g [N, C] of one tap += yᵀ [N, pixels] · x [pixels under the tap, C].
struct TapLoader {
  const ConvWeightGrad& op;
  int tap;
  const Tensor &y, &x;
  float* g;

  int64_t rows() const { return y.shape[3]; }
  int64_t columns() const { return x.shape[3]; }
  int64_t tiles() const { return (rows() + kTileRows - 1) / kTileRows; }
  int segments() const { return 1; }
  int64_t depth(int) const { return y.shape.rows(); }
  RowTile tile(int64_t t) const {
    return {g + t * kTileRows * columns(), columns(), static_cast<int>(std::min<int64_t>(kTileRows, rows() - t * kTileRows))};
  }
  RowSource source(int, int64_t t) const { return {{y.f32() + t * kTileRows, 1, rows()}, 0, tile(t).rows}; }
  void init(const RowTile&, int64_t, int64_t, int64_t) const {}  // adds to what is there

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
      const int64_t width = std::min<int64_t>(kPanel, count - n), padded = width > kLanes ? kPanel : kLanes;
      for (int64_t i = 0; i < length; i++, packed += padded) {
        const float* from = under(k + i);
        std::fill_n(packed, padded, 0.0f);
        if (from) std::copy_n(from + column + n, width, packed);
      }
    }
  }
};

}  // namespace

template <> void run(const ConvWeightGrad& op, Context& c) {
  const int64_t elements = c.out(0).shape[1] * c.out(0).shape[2];
  for (int tap = 0; tap < op.kernel * op.kernel; tap++)
    gemm(c.threads, TapLoader{op, tap, c.in(0), c.in(1), c.out(0).f32() + tap * elements}, c.workspace);
}

template <> size_t workspace_bytes(const ConvWeightGrad&, std::span<const Shape>, int threads) { return gemm_workspace_bytes(threads); }

}  // namespace lorafuse::cpu
