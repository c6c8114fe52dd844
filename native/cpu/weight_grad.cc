// Gradients of trainable matrices. See gemm.h.
#include "gemm.h"

namespace lorafuse::cpu {
namespace {

// g [N, K] += scale · dyᵀ · x: the sum runs over the rows of dy and x.
struct WeightGradLoader {
  float scale;
  const Tensor &dy, &x, &g;

  int64_t columns() const { return g.shape[1]; }
  int64_t tiles() const { return (g.shape[0] + kTileRows - 1) / kTileRows; }
  int segments() const { return 1; }
  int64_t depth(int) const { return dy.shape.rows(); }
  RowTile tile(int64_t t) const {
    return {g.f32() + t * kTileRows * columns(), columns(), static_cast<int>(std::min<int64_t>(kTileRows, g.shape[0] - t * kTileRows))};
  }
  RowSource source(int, int64_t t) const { return {{dy.f32() + t * kTileRows, 1, g.shape[0]}, 0, tile(t).rows}; }
  void init(const RowTile&, int64_t, int64_t, int64_t) const {}  // adds to what is there
  void pack(int, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    pack_rows(x.f32() + k * columns() + column, columns(), length, count, scale, packed);
  }
};

}  // namespace

template <> void run(const WeightGrad& op, Context& c) {
  for (size_t i = 0; i < op.scales.size(); i++)
    gemm(c.threads, WeightGradLoader{op.scales[i], c.in(2 * i), c.in(2 * i + 1), c.out(i)}, c.workspace);
}

template <> size_t workspace_bytes(const WeightGrad&, std::span<const Shape>, int threads) { return gemm_workspace_bytes(threads); }

}  // namespace lorafuse::cpu
