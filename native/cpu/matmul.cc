// y = Σ scale · x · wᵀ + bias + residual. See gemm.h. Gates and adapters run as the plain products of graph/lowering.h, one after the
// other.
#include "../graph/lowering.h"
#include "gemm.h"

namespace lorafuse::cpu {
namespace {

struct MatMulLoader {
  const MatMul& op;
  const Context& c;
  const Tensor *bias, *residual;

  const Tensor& x(int i) const { return c.in(2 * i); }
  const Tensor& w(int i) const { return c.in(2 * i + 1); }
  int64_t rows() const { return x(0).shape.rows(); }
  int64_t columns() const { return c.out(0).shape[-1]; }
  int64_t tiles() const { return row_tiles(rows()); }
  int segments() const { return static_cast<int>(op.pairs.size()); }
  int64_t depth(int i) const { return x(i).shape[-1]; }

  RowTile tile(int64_t t) const { return row_tile(c.out(0).f32(), rows(), columns(), t); }
  RowSource source(int i, int64_t t) const { return {{x(i).f32() + t * kTileRows * depth(i), depth(i), 1}, 0, tile(t).rows}; }
  void init(const RowTile& tile, int64_t t, int64_t column, int64_t count) const {
    init_tile(tile, column, count, bias, residual ? residual->f32() + t * kTileRows * columns() : nullptr);
  }
  void pack(int i, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    with_elements(w(i), [&](const auto* data) {
      if (op.pairs[i].transposed) pack_rows(data + k * columns() + column, columns(), length, count, op.pairs[i].scale, packed);
      else pack_columns(data + column * depth(i) + k, depth(i), length, count, op.pairs[i].scale, packed);
    });
  }
};

template <class Product> void run_lowered(const Product& op, Context& c) {
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    run_node(node, tensors, c.threads, workspace);
  });
}

}  // namespace

template <> void run(const MatMul& op, Context& c) {
  if (op.epilogue.gate == Gate::none)
    gemm(c.threads, MatMulLoader{op, c, c.in_or_null(bias_input(op)), c.in_or_null(residual_input(op))}, c.workspace);
  else run_lowered(op, c);
}

template <> void run(const LoraMatMul& op, Context& c) { run_lowered(op, c); }
template <> void run(const LoraMatMulGrad& op, Context& c) { run_lowered(op, c); }

}  // namespace lorafuse::cpu
