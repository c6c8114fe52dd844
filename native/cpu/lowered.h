// Products with adapters or gates, which run as the plain products of graph/lowering.h.
#pragma once
#include "../graph/lowering.h"
#include "gemm.h"

namespace lorafuse::cpu {

template <class Product> void run_lowered(const Product& op, Context& c) {
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    run_node(node, tensors, c.threads, workspace);
  });
}

template <class Product> size_t lowered_workspace_bytes(const Product& op, std::span<const Shape> inputs, int threads) {
  return gemm_workspace_bytes(threads) + dy_bytes(op.epilogue.gate, inputs.back(), DType::f32);
}

}  // namespace lorafuse::cpu
