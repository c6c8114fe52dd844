// Products with adapters or gates as plain ones, for a backend that has no kernel for them.
#pragma once
#include <span>

#include "graph.h"

namespace lorafuse {

// The plain products that compute an op without its gate. Values are numbered: the op's inputs from 0, its outputs except the gate's from
// `y`. Where there is one y, the last product makes it.
inline std::vector<Node> plain_products(const MatMul& op, ValueId y) {
  MatMul plain = op;
  plain.epilogue.gate = Gate::none;
  Node product{std::move(plain), {}, {y}};
  for (size_t i = 0; i < op.operands() + op.epilogue.bias + op.epilogue.residual; i++) product.inputs.push_back(static_cast<ValueId>(i));
  return {product};
}

template <class Adapted> std::vector<Node> plain_products(const Adapted& op, ValueId y) {
  const auto id = [](size_t i) { return static_cast<ValueId>(i); };
  const size_t count = op.scales.size(), products = op.products();
  const ValueId t = y + id(products);
  std::vector<Node> nodes;
  for (size_t i = 0; i < count; i++)
    nodes.push_back({MatMul{{{op.transposed ? op.scales[i] : 1, op.transposed}}}, {id(op.x(i)), id(op.reduce(i))}, {t + id(i)}});
  for (size_t k = 0; k < products; k++) {
    MatMul product{{}, {op.epilogue.bias, op.epilogue.residual}};
    std::vector<ValueId> inputs;
    const size_t end = products == 1 ? count : k + 1;
    for (size_t i = k; i < end; i++) {
      product.pairs.push_back({1, op.transposed});
      product.pairs.push_back({op.transposed ? 1 : op.scales[i], op.transposed});
      for (ValueId v : {id(op.x(i)), id(op.w(i)), t + id(i), id(op.expand(i))}) inputs.push_back(v);
    }
    for (size_t extra : {bias_input(op), residual_input(op)})
      if (extra != kAbsent) inputs.push_back(id(extra));
    nodes.push_back({std::move(product), std::move(inputs), {y + id(k)}});
  }
  return nodes;
}

// All nodes that compute the op of `node`, over values numbered: inputs, outputs, then dy where the gate is geglu_grad.
template <class Product> std::vector<Node> as_products(const Product& op, const Node& node) {
  const auto y = static_cast<ValueId>(node.inputs.size()), end = y + static_cast<ValueId>(node.outputs.size());
  std::vector<Node> nodes = plain_products(op, y);
  if (op.epilogue.gate == Gate::geglu) nodes.push_back({Geglu{}, {y}, {end - 1}});
  if (op.epilogue.gate == Gate::geglu_grad) {
    nodes.back().outputs = {end};
    nodes.push_back({GegluGrad{}, {y - 1, end}, {y}});
  }
  return nodes;
}

// How much of the op's workspace its first part, dy [.., F] of a GEGLU's x [.., 2F], takes; nothing without a geglu_grad.
inline size_t dy_bytes(Gate gate, const Shape& x, DType dtype) {
  return gate == Gate::geglu_grad ? aligned(x.elements() / 2 * size_of(dtype)) : 0;
}

// Calls run(node, tensors, workspace) for each of those nodes.
template <class Product, class F>
void run_as_products(const Product& op, const Node& node, std::span<const Tensor> tensors, void* workspace, F run) {
  std::vector<Tensor> own;
  for (const auto* list : {&node.inputs, &node.outputs})
    for (ValueId v : *list) own.push_back(tensors[v]);
  if (op.epilogue.gate == Gate::geglu_grad) {
    const Tensor& dx = tensors[node.outputs[0]];
    own.push_back({workspace, dx.dtype, dx.shape.with_channels(dx.shape[-1] / 2)});
    workspace = static_cast<unsigned char*>(workspace) + dy_bytes(op.epilogue.gate, dx.shape, dx.dtype);
  }
  for (const Node& product : as_products(op, node)) run(product, std::span<const Tensor>(own), workspace);
}

}  // namespace lorafuse
