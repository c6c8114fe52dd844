// y = Σ scale · x · wᵀ + bias + residual, and the gradient of a trainable w. See gemm.h.
#include "../graph/lora.h"
#include "gemm.h"

namespace lorafuse::cpu {
namespace {

struct MatMulLoader {
  const MatMul& op;
  const Context& c;

  const Tensor& x(int i) const { return c.in(2 * i); }
  const Tensor& w(int i) const { return c.in(2 * i + 1); }
  int64_t rows() const { return x(0).shape.rows(); }
  int64_t columns() const { return c.out(0).shape[-1]; }
  int64_t tiles() const { return (rows() + kTileRows - 1) / kTileRows; }
  int segments() const { return static_cast<int>(op.pairs.size()); }
  int64_t depth(int i) const { return x(i).shape[-1]; }

  RowTile tile(int64_t t) const {
    return {c.out(0).f32() + t * kTileRows * columns(), columns(), static_cast<int>(std::min<int64_t>(kTileRows, rows() - t * kTileRows))};
  }
  RowSource source(int i, int64_t t) const { return {{x(i).f32() + t * kTileRows * depth(i), depth(i), 1}, 0, tile(t).rows}; }
  void init(const RowTile& tile, int64_t t, int64_t column, int64_t count) const {
    const float* residual = op.residual ? c.last_in().f32() + t * kTileRows * columns() : nullptr;
    init_tile(tile, column, count, op.bias ? &c.in(2 * op.pairs.size()) : nullptr, residual);
  }
  void pack(int i, int64_t k, int64_t length, int64_t column, int64_t count, float* packed) const {
    with_elements(w(i), [&](const auto* data) {
      if (op.pairs[i].transposed) pack_rows(data + k * columns() + column, columns(), length, count, op.pairs[i].scale, packed);
      else pack_columns(data + column * depth(i) + k, depth(i), length, count, op.pairs[i].scale, packed);
    });
  }
};

// g [N, K] += scale · dyᵀ · x: the rows of dy and x are what is summed over.
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

template <class Product>
void run_products(const Product& op, Context& c) {
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    Context one{c.threads, workspace, node, tensors};
    std::visit([&](const auto& part) { run(part, one); }, node.op);
  });
}

template <class Product>
size_t workspace_of_products(const Product& op, std::span<const Shape> inputs, int threads) {
  const Shape& x = inputs.back();  // where there is dy, of its Geglu
  return gemm_workspace_bytes(threads) + dy_bytes(op.gate, x.with_channels(x[-1] / 2), DType::f32);
}

}  // namespace

void run(const MatMul& op, Context& c) {
  if (op.gate == Gate::none) gemm(c.threads, MatMulLoader{op, c}, c.workspace);
  else run_products(op, c);
}
void run(const LoraMatMul& op, Context& c) { run_products(op, c); }
void run(const WeightGrad& op, Context& c) {
  for (size_t i = 0; i < op.scales.size(); i++)
    gemm(c.threads, WeightGradLoader{op.scales[i], c.in(2 * i), c.in(2 * i + 1), c.out(i)}, c.workspace);
}

size_t workspace_bytes(const MatMul& op, std::span<const Shape> inputs, int threads) { return workspace_of_products(op, inputs, threads); }
size_t workspace_bytes(const LoraMatMul& op, std::span<const Shape> inputs, int threads) {
  return workspace_of_products(op, inputs, threads);
}
size_t workspace_bytes(const WeightGrad&, std::span<const Shape>, int threads) { return gemm_workspace_bytes(threads); }

}  // namespace lorafuse::cpu
