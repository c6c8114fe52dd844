// The tensors of a node, as a kernel sees them: the common part of the backends' contexts.
#pragma once
#include <span>

#include "graph.h"

namespace lorafuse {

struct NodeTensors {
  const Node& node;                 // inputs and outputs in the op's order
  std::span<const Tensor> tensors;  // of every value of the graph

  const Tensor& in(size_t i) const { return tensors[node.inputs[i]]; }
  const Tensor& out(size_t i) const { return tensors[node.outputs[i]]; }
  // Input i, or null where it is kAbsent: in_or_null(residual_input(op)).
  const Tensor* in_or_null(size_t i) const { return i == kAbsent ? nullptr : &in(i); }
};

}  // namespace lorafuse
