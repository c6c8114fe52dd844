// A linear layer and its adapter become one LoraMatMul, and layers that read the same x become one of several terms.
// It comes after the rewrites of fuse.cc: by then y = x·wᵀ + s·t·upᵀ is one MatMul of two pairs, and t = x·downᵀ another.
#include <algorithm>

#include "graph.h"

namespace lorafuse {
namespace {

constexpr int kReach = 16;  // how far apart in the graph layers may be that share a node: what is computed first waits for the last
constexpr size_t kMostTerms = 4;

struct LoraFuser {
  explicit LoraFuser(const Graph& fused)
      : graph(fused), producer(fused.values.size(), -1), dead(fused.nodes.size(), false), later(fused.nodes.size()) {
    for (size_t i = 0; i < graph.nodes.size(); i++)
      for (ValueId v : graph.nodes[i].outputs) producer[v] = static_cast<int>(i);
  }

  bool is(ValueId v, Storage storage) const { return graph.values[v].storage == storage; }

  // The node t = x · downᵀ that made `t`, where it is nothing else.
  const Node* down(ValueId t) const {
    if (producer[t] < 0) return nullptr;
    const Node& node = graph.nodes[producer[t]];
    const auto* op = std::get_if<MatMul>(&node.op);
    return op && op->pairs.size() == 1 && !op->bias && !op->residual && is(node.inputs[1], Storage::parameter) ? &node : nullptr;
  }

  // Whether pair `w` of a product is a frozen layer whose adapter is pair `up`, and the term they are.
  bool couple(const Node& node, size_t w, size_t up, LoraMatMul::Term& term) const {
    const auto& pairs = std::get<MatMul>(node.op).pairs;
    const ValueId t = node.inputs[2 * up];
    if (!is(node.inputs[2 * w + 1], Storage::weight) || !is(node.inputs[2 * up + 1], Storage::parameter) || !down(t)) return false;
    const auto& [down_scale, down_transposed] = std::get<MatMul>(down(t)->op).pairs[0];
    term = {pairs[up].scale * down_scale, pairs[w].transposed};
    return down(t)->inputs[0] == node.inputs[2 * w] && pairs[w].scale == 1 && pairs[up].transposed == term.transposed &&
           down_transposed == term.transposed && (term.transposed ? pairs[up].scale : down_scale) == 1;
  }

  // t is computed later than it was: gradients that read it before can wait, anything else cannot.
  bool can_wait(ValueId t, int until, std::vector<int>& waiting) const {
    for (int i = producer[t] + 1; i < until; i++) {
      const auto& inputs = graph.nodes[i].inputs;
      if (dead[i] || std::find(inputs.begin(), inputs.end(), t) == inputs.end()) continue;
      if (!std::holds_alternative<WeightGrad>(graph.nodes[i].op)) return false;
      waiting.push_back(i);
    }
    return true;
  }

  void fuse_adapters(int position) {
    Node& node = graph.nodes[position];
    const auto* op = std::get_if<MatMul>(&node.op);
    if (!op || op->pairs.size() % 2) return;
    LoraMatMul fused{{}, op->pairs.size() > 2, op->bias, op->residual};
    std::vector<ValueId> inputs, outputs = node.outputs;
    std::vector<int> waiting;
    std::vector<bool> taken(op->pairs.size(), false);
    for (size_t w = 0; w < op->pairs.size(); w++)
      for (size_t up = 0; up < op->pairs.size(); up++) {
        LoraMatMul::Term term;
        if (taken[w] || taken[up] || !couple(node, w, up, term)) continue;
        const ValueId t = node.inputs[2 * up];
        if (std::find(outputs.begin(), outputs.end(), t) != outputs.end() || !can_wait(t, position, waiting)) return;
        taken[w] = taken[up] = true;
        fused.terms.push_back(term);
        for (ValueId v : {node.inputs[2 * w], node.inputs[2 * w + 1], down(t)->inputs[1], node.inputs[2 * up + 1]}) inputs.push_back(v);
        outputs.push_back(t);
      }
    if (std::find(taken.begin(), taken.end(), false) != taken.end()) return;
    inputs.insert(inputs.end(), node.inputs.begin() + 2 * op->pairs.size(), node.inputs.end());
    for (size_t i = 1; i < outputs.size(); i++) {
      dead[producer[outputs[i]]] = true;
      producer[outputs[i]] = position;
    }
    for (int i : waiting) later[position].push_back(i);
    node = {std::move(fused), std::move(inputs), std::move(outputs)};
  }

  // A layer that can share a node with others.
  const LoraMatMul* shareable(int position) const {
    const auto* op = std::get_if<LoraMatMul>(&graph.nodes[position].op);
    return op && !dead[position] && !op->sum && !op->bias && !op->residual && !op->terms[0].transposed ? op : nullptr;
  }
  bool reads(const Node& node, const std::vector<ValueId>& values) const {
    return std::find_first_of(node.inputs.begin(), node.inputs.end(), values.begin(), values.end()) != node.inputs.end();
  }

  // Joins the layers before `position` that read the same x, the nearest first.
  void join(int position) {
    if (!shareable(position)) return;
    for (int i = position - 1; i >= std::max(0, position - kReach); i--) {
      const LoraMatMul* other = shareable(i);
      const LoraMatMul& op = *shareable(position);
      const Node &first = graph.nodes[i], &second = graph.nodes[position];
      if (!other || first.inputs[0] != second.inputs[0] || other->terms.size() + op.terms.size() > kMostTerms) continue;
      bool free = true;
      for (int j = i + 1; j <= position; j++) free = free && (dead[j] || !reads(graph.nodes[j], first.outputs));
      if (!free) continue;
      LoraMatMul both = *other;
      both.terms.insert(both.terms.end(), op.terms.begin(), op.terms.end());
      Node joined{both, first.inputs, {}};
      joined.inputs.insert(joined.inputs.end(), second.inputs.begin(), second.inputs.end());
      for (bool t : {false, true})
        for (const Node* node : {&first, &second}) {
          const auto half = node->outputs.begin() + node->outputs.size() / 2;
          joined.outputs.insert(joined.outputs.end(), t ? half : node->outputs.begin(), t ? node->outputs.end() : half);
        }
      dead[i] = true;
      later[position].insert(later[position].end(), later[i].begin(), later[i].end());
      graph.nodes[position] = std::move(joined);
    }
  }

  void run() {
    const int count = static_cast<int>(graph.nodes.size());
    for (int i = 0; i < count; i++) fuse_adapters(i);
    for (int i = 0; i < count; i++) join(i);
    std::vector<bool> moved(count, false);
    for (const auto& list : later)
      for (int i : list) moved[i] = true;
    std::vector<Node> nodes;
    for (int i = 0; i < count; i++) {
      if (dead[i] || moved[i]) continue;
      nodes.push_back(std::move(graph.nodes[i]));
      for (int j : later[i]) nodes.push_back(std::move(graph.nodes[j]));
    }
    graph.nodes = std::move(nodes);
  }

  Graph graph;
  std::vector<int> producer;            // node that writes each value, or −1
  std::vector<bool> dead;               // per node
  std::vector<std::vector<int>> later;  // nodes that move behind this one
};

}  // namespace

Graph fuse_lora(const Graph& graph) {
  LoraFuser fuser(graph);
  fuser.run();
  return std::move(fuser.graph);
}

}  // namespace lorafuse
