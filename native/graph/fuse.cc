// Rewrites after gradients(): an Add disappears into the product, or the gradient of a norm, that made one of its operands.
#include <algorithm>

#include "graph.h"

namespace lorafuse {
namespace {

// What made it is moved down to the Add only over a few nodes: its inputs stay alive that much longer.
constexpr int kReach = 6;

struct Fuser {
  const FuseOptions& options;
  Graph graph;
  std::vector<int> uses;      // readers of each value, results count
  std::vector<int> producer;  // node that writes each value, or −1
  std::vector<bool> dead;     // per node

  // The node that made `v` and may take the Add in: live, and nothing else reads it.
  Node* maker(ValueId v, int position) {
    const int p = producer[v];
    if (p < 0 || dead[p] || uses[v] != 1 || position - p > kReach) return nullptr;
    Node& node = graph.nodes[p];
    const bool has_residual = std::visit([](const auto& op) { return requires { op.residual; }; }, node.op);
    return has_residual ? &node : nullptr;
  }

  void replace(int position, Node& absorbed, Node merged) {
    dead[&absorbed - graph.nodes.data()] = true;
    merged.outputs = graph.nodes[position].outputs;
    graph.nodes[position] = std::move(merged);
  }

  // y = a + b, both MatMuls: all operand pairs in one product. Both biases cannot be kept, nor both residuals.
  bool merge_pairs(int position, Node* a, Node* b) {
    const auto* ma = a ? std::get_if<MatMul>(&a->op) : nullptr;
    const auto* mb = b ? std::get_if<MatMul>(&b->op) : nullptr;
    if (!ma || !mb || a == b || (ma->bias && mb->bias) || (ma->residual && mb->residual)) return false;
    Node merged{MatMul{ma->pairs, ma->bias || mb->bias, ma->residual || mb->residual}, {}, {}};
    auto& op = std::get<MatMul>(merged.op);
    op.pairs.insert(op.pairs.end(), mb->pairs.begin(), mb->pairs.end());
    for (const auto* node : {a, b}) {
      const auto& m = std::get<MatMul>(node->op);
      merged.inputs.insert(merged.inputs.end(), node->inputs.begin(), node->inputs.begin() + 2 * m.pairs.size());
    }
    for (const auto* node : {a, b}) {
      const auto& m = std::get<MatMul>(node->op);
      if (m.bias) merged.inputs.push_back(node->inputs[2 * m.pairs.size()]);
    }
    for (const auto* node : {a, b})
      if (std::get<MatMul>(node->op).residual) merged.inputs.push_back(node->inputs.back());
    dead[b - graph.nodes.data()] = true;
    replace(position, *a, std::move(merged));
    return true;
  }

  bool absorb_residual(int position, Node* made, ValueId other) {
    if (!made) return false;
    Node merged = *made;
    const bool fits = std::visit(
        [](auto& op) {
          if constexpr (requires { op.residual; }) {
            if (op.residual) return false;
            return op.residual = true;
          } else {
            return false;
          }
        },
        merged.op);
    if (!fits) return false;
    merged.inputs.push_back(other);
    replace(position, *made, std::move(merged));
    return true;
  }

  void run() {
    for (int i = 0; i < static_cast<int>(graph.nodes.size()); i++) {
      if (!std::holds_alternative<Add>(graph.nodes[i].op)) continue;
      const ValueId a = graph.nodes[i].inputs[0], b = graph.nodes[i].inputs[1];
      if (a == b) continue;
      if (options.pairs && merge_pairs(i, maker(a, i), maker(b, i))) continue;
      if (!options.residual) continue;
      if (producer[a] > producer[b] ? absorb_residual(i, maker(a, i), b) : absorb_residual(i, maker(b, i), a)) continue;
      if (producer[a] > producer[b] ? absorb_residual(i, maker(b, i), a) : absorb_residual(i, maker(a, i), b)) continue;
    }
    size_t kept = 0;
    for (size_t i = 0; i < graph.nodes.size(); i++)
      if (!dead[i]) {
        if (kept != i) graph.nodes[kept] = std::move(graph.nodes[i]);
        kept++;
      }
    graph.nodes.resize(kept);
  }
};

}  // namespace

Graph fuse(const Graph& graph, FuseOptions options) {
  Fuser f{options, graph, std::vector<int>(graph.values.size(), 0), std::vector<int>(graph.values.size(), -1),
          std::vector<bool>(graph.nodes.size(), false)};
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    for (ValueId v : graph.nodes[i].inputs) f.uses[v]++;
    for (ValueId v : graph.nodes[i].outputs) f.producer[v] = static_cast<int>(i);
  }
  for (ValueId v : graph.results) f.uses[v]++;
  f.run();
  Graph fused = options.lora ? fuse_lora(f.graph) : std::move(f.graph);
  if (options.geglu) fused = fuse_geglu(fused);
  return options.weight_grads ? fuse_weight_grads(std::move(fused)) : fused;
}

}  // namespace lorafuse
