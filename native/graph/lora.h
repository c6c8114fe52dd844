// Products with adapters or gates as plain ones: what a backend runs that has no kernel for them.
#pragma once
#include <span>

#include "graph.h"

namespace lorafuse {

// The products of an op without its gate, over values numbered: inputs from 0, outputs from `y`. The last makes y_0 where there is one y.
inline std::vector<Node> ungated(const MatMul& op, ValueId y) {
  Node product{MatMul{op.pairs, op.bias, op.residual}, {}, {y}};
  for (size_t i = 0; i < 2 * op.pairs.size() + op.bias + op.residual; i++) product.inputs.push_back(static_cast<ValueId>(i));
  return {product};
}

inline std::vector<Node> ungated(const LoraMatMul& op, ValueId y) {
  std::vector<Node> nodes;
  const auto count = static_cast<ValueId>(op.terms.size()), products = static_cast<ValueId>(op.products()), t = y + products;
  for (ValueId i = 0; i < count; i++) {
    const auto [scale, transposed] = op.terms[i];
    nodes.push_back({MatMul{{{transposed ? scale : 1, transposed}}}, {4 * i, 4 * i + 2}, {t + i}});
  }
  for (ValueId k = 0; k < products; k++) {
    MatMul product{{}, op.bias, op.residual};
    std::vector<ValueId> inputs;
    for (ValueId i = op.sum ? 0 : k; i < (op.sum ? count : k + 1); i++) {
      const auto [scale, transposed] = op.terms[i];
      product.pairs.push_back({1, transposed});
      product.pairs.push_back({transposed ? 1 : scale, transposed});
      for (ValueId v : {4 * i, 4 * i + 1, t + i, 4 * i + 3}) inputs.push_back(v);
    }
    for (ValueId extra = 0; extra < op.bias + op.residual; extra++) inputs.push_back(4 * count + extra);
    nodes.push_back({std::move(product), std::move(inputs), {y + k}});
  }
  return nodes;
}

// All that the op of `node` is, over values numbered: inputs, outputs, then dy where the gate is geglu_grad.
template <class Product>
std::vector<Node> as_products(const Product& op, const Node& node) {
  const auto y = static_cast<ValueId>(node.inputs.size()), end = y + static_cast<ValueId>(node.outputs.size());
  std::vector<Node> nodes = ungated(op, y);
  if (op.gate == Gate::geglu) nodes.push_back({Geglu{}, {y}, {end - 1}});
  if (op.gate == Gate::geglu_grad) {
    nodes.back().outputs = {end};
    nodes.push_back({GegluGrad{}, {y - 1, end}, {y}});
  }
  return nodes;
}

// Of dy, which lies at the begin of the op's workspace.
inline size_t dy_bytes(Gate gate, const Shape& product, DType dtype) {
  return gate == Gate::geglu_grad ? aligned(product.elements() * size_of(dtype)) : 0;
}

// Calls run(node, tensors, workspace) for each of them.
template <class Product, class F>
void run_as_products(const Product& op, const Node& node, std::span<const Tensor> tensors, void* workspace, F run) {
  std::vector<Tensor> own;
  for (const auto* list : {&node.inputs, &node.outputs})
    for (ValueId v : *list) own.push_back(tensors[v]);
  if (op.gate == Gate::geglu_grad) {
    const Tensor& dx = tensors[node.outputs[0]];
    own.push_back({workspace, dx.dtype, dx.shape.with_channels(dx.shape[-1] / 2)});
    workspace = static_cast<unsigned char*>(workspace) + dy_bytes(op.gate, own.back().shape, dx.dtype);
  }
  for (const Node& product : as_products(op, node)) run(product, std::span<const Tensor>(own), workspace);
}

}  // namespace lorafuse
