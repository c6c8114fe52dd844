// A Geglu becomes the gate of the product that made its x, a GegluGrad that of the product that made its dy, which is then never stored.
// It comes last: by then a layer and its adapter are one node.
#include "graph.h"

namespace lorafuse {
namespace {

struct GegluFuser {
  explicit GegluFuser(const Graph& fused) : graph(fused), producer(fused.values.size(), -1), uses(fused.values.size(), 0) {
    for (size_t i = 0; i < graph.nodes.size(); i++) {
      for (ValueId v : graph.nodes[i].inputs) uses[v]++;
      for (ValueId v : graph.nodes[i].outputs) producer[v] = static_cast<int>(i);
    }
    for (ValueId v : graph.results) uses[v]++;
  }

  // Makes the product whose only y is `v` end in `gate`. Where that is the gradient, nothing else may read y.
  Node* end_in(Gate gate, ValueId v) {
    if (producer[v] < 0 || (gate == Gate::geglu_grad && uses[v] != 1)) return nullptr;
    Node& node = graph.nodes[producer[v]];
    const auto set = [&](auto& op) {
      if (node.outputs[0] != v || op.gate != Gate::none || op.residual || (gate == Gate::geglu_grad && op.bias)) return false;
      op.gate = gate;
      return true;
    };
    if (auto* op = std::get_if<MatMul>(&node.op)) return set(*op) ? &node : nullptr;
    if (auto* op = std::get_if<LoraMatMul>(&node.op)) return op->products() == 1 && set(*op) ? &node : nullptr;
    return nullptr;
  }

  // Whether `node` is now part of another.
  bool absorbed(const Node& node) {
    if (std::holds_alternative<Geglu>(node.op)) {
      Node* product = end_in(Gate::geglu, node.inputs[0]);
      if (product) product->outputs.push_back(node.outputs[0]);
      return product;
    }
    if (std::holds_alternative<GegluGrad>(node.op)) {
      Node* product = producer[node.inputs[0]] < producer[node.inputs[1]] ? end_in(Gate::geglu_grad, node.inputs[1]) : nullptr;
      if (product) product->inputs.push_back(node.inputs[0]), product->outputs[0] = node.outputs[0];
      return product;
    }
    return false;
  }

  Graph graph;
  std::vector<int> producer;  // node that writes each value, or −1
  std::vector<int> uses;      // readers of each value, results count
};

}  // namespace

Graph fuse_geglu(const Graph& graph) {
  GegluFuser fuser(graph);
  std::vector<Node> nodes;
  std::vector<bool> absorbed;
  for (const Node& node : graph.nodes) absorbed.push_back(fuser.absorbed(node));
  for (size_t i = 0; i < absorbed.size(); i++)
    if (!absorbed[i]) nodes.push_back(std::move(fuser.graph.nodes[i]));
  fuser.graph.nodes = std::move(nodes);
  return std::move(fuser.graph);
}

}  // namespace lorafuse
