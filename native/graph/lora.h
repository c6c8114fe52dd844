// A LoraMatMul as plain products: what a backend runs that has no kernel for it.
#pragma once
#include "graph.h"

namespace lorafuse {

// The MatMul nodes that compute the outputs of `node`, whose op is `op`, in order.
inline std::vector<Node> as_products(const LoraMatMul& op, const Node& node) {
  std::vector<Node> products;
  const size_t count = op.terms.size();
  for (size_t i = 0; i < count; i++) {
    const auto [scale, transposed] = op.terms[i];
    const ValueId t = node.outputs[op.products() + i];
    products.push_back({MatMul{{{transposed ? scale : 1, transposed}}}, {node.inputs[4 * i], node.inputs[4 * i + 2]}, {t}});
  }
  for (size_t y = 0; y < op.products(); y++) {
    MatMul product{{}, op.bias, op.residual};
    std::vector<ValueId> inputs;
    for (size_t i = op.sum ? 0 : y; i < (op.sum ? count : y + 1); i++) {
      const auto [scale, transposed] = op.terms[i];
      product.pairs.push_back({1, transposed});
      product.pairs.push_back({transposed ? 1 : scale, transposed});
      const ValueId t = node.outputs[op.products() + i];
      for (ValueId v : {node.inputs[4 * i], node.inputs[4 * i + 1], t, node.inputs[4 * i + 3]}) inputs.push_back(v);
    }
    inputs.insert(inputs.end(), node.inputs.begin() + 4 * count, node.inputs.end());
    products.push_back({std::move(product), std::move(inputs), {node.outputs[y]}});
  }
  return products;
}

}  // namespace lorafuse
