// A linear layer and its adapter become one LoraMatMul, and layers that read the same x become one of several products. In the backward
// pass the gradient of their input becomes one LoraMatMulGrad.
// It comes after the rewrites of fuse.cc: by then y = x·wᵀ + s·t·upᵀ is one MatMul of two pairs, and t = x·downᵀ another.
#include "rewrite.h"

namespace lorafuse {
namespace {

constexpr int kReach = 16;  // how far apart in the graph layers may be that share a node: what is computed first waits for the last
constexpr size_t kMostLayers = 4;

struct LoraFuser : Rewrite {
  using Rewrite::Rewrite;

  bool is(ValueId v, Storage storage) const { return graph.values[v].storage == storage; }

  // The node t = x · downᵀ that made `t`, where it is nothing else.
  const Node* down(ValueId t) const {
    const auto* op = as<MatMul>(producer[t]);
    if (!op || op->pairs.size() != 1 || op->epilogue.bias || op->epilogue.residual) return nullptr;
    return is(node(producer[t]).inputs[1], Storage::parameter) ? &node(producer[t]) : nullptr;
  }

  // Whether pair `w` of a product is a frozen layer and pair `up` its adapter, which multiplies by `scale`.
  bool couple(const Node& n, size_t w, size_t up, float& scale) const {
    const auto& op = std::get<MatMul>(n.op);
    const bool transposed = op.pairs[w].transposed;
    const Node* made_t = down(n.inputs[op.x(up)]);
    if (!made_t || !is(n.inputs[op.w(w)], Storage::weight) || !is(n.inputs[op.w(up)], Storage::parameter)) return false;
    const MatMul::Pair first = std::get<MatMul>(made_t->op).pairs[0], second = op.pairs[up];
    scale = second.scale * first.scale;
    return made_t->inputs[0] == n.inputs[op.x(w)] && op.pairs[w].scale == 1 && first.transposed == transposed &&
           second.transposed == transposed && (transposed ? second.scale : first.scale) == 1;
  }

  // t moves down to `until`. WeightGrads that read it earlier move too; any other reader forbids it.
  bool can_wait(ValueId t, int until, std::vector<int>& waiting) const {
    for (int i = producer[t] + 1; i < until; i++) {
      const auto& inputs = node(i).inputs;
      if (removed(i) || std::find(inputs.begin(), inputs.end(), t) == inputs.end()) continue;
      if (!as<WeightGrad>(i)) return false;
      waiting.push_back(i);
    }
    return true;
  }

  // A product whose pairs are all layers with their adapters becomes one node with the products that make their t.
  void fuse_adapters(int position) {
    Node& n = node(position);
    const auto* op = as<MatMul>(position);
    if (!op || op->pairs.size() % 2) return;
    const bool transposed = op->pairs[0].transposed;
    if (!transposed && op->pairs.size() > 2) return;
    std::vector<float> scales;
    std::vector<ValueId> inputs, outputs = n.outputs;
    std::vector<int> waiting;
    std::vector<bool> taken(op->pairs.size(), false);
    for (size_t w = 0; w < taken.size(); w++)
      for (size_t up = 0; up < taken.size(); up++) {
        float scale;
        if (taken[w] || taken[up] || !couple(n, w, up, scale)) continue;
        const ValueId t = n.inputs[op->x(up)];
        if (op->pairs[w].transposed != transposed) return;
        if (std::find(outputs.begin(), outputs.end(), t) != outputs.end() || !can_wait(t, position, waiting)) return;
        taken[w] = taken[up] = true;
        scales.push_back(scale);
        append(inputs, {n.inputs[op->x(w)], n.inputs[op->w(w)], down(t)->inputs[1], n.inputs[op->w(up)]});
        outputs.push_back(t);
      }
    if (std::find(taken.begin(), taken.end(), false) != taken.end()) return;
    inputs.insert(inputs.end(), n.inputs.begin() + op->operands(), n.inputs.end());
    for (size_t i = 1; i < outputs.size(); i++) {
      remove(producer[outputs[i]]);
      producer[outputs[i]] = position;
    }
    for (int i : waiting) move_behind(position, i);
    if (transposed) n.op = LoraMatMulGrad{std::move(scales), op->epilogue};
    else n.op = LoraMatMul{std::move(scales), op->epilogue};
    n.inputs = std::move(inputs), n.outputs = std::move(outputs);
  }

  // A layer that can share a node with others.
  const LoraMatMul* shareable(int i) const {
    const auto* op = as<LoraMatMul>(i);
    return op && !op->epilogue.bias && !op->epilogue.residual && op->epilogue.gate == Gate::none ? op : nullptr;
  }

  // Joins the layers before `position` that read the same x, the nearest first.
  void join(int position) {
    if (!shareable(position)) return;
    for (int i = position - 1; i >= std::max(0, position - kReach); i--) {
      const LoraMatMul *other = shareable(i), *op = shareable(position);
      const Node &first = node(i), &second = node(position);
      if (!other || first.inputs[0] != second.inputs[0] || other->scales.size() + op->scales.size() > kMostLayers) continue;
      bool free = true;
      for (int j = i + 1; j <= position; j++) free = free && (removed(j) || !reads(node(j), first.outputs));
      if (!free) continue;
      Node joined = second;
      std::get<LoraMatMul>(joined.op).scales = other->scales;
      append(std::get<LoraMatMul>(joined.op).scales, op->scales);
      joined.inputs = first.inputs;
      joined.inputs.insert(joined.inputs.end(), second.inputs.begin() + 1, second.inputs.end());
      joined.outputs.clear();
      for (bool t : {false, true})
        for (const Node* n : {&first, &second}) {
          const auto half = n->outputs.begin() + n->outputs.size() / 2;
          joined.outputs.insert(joined.outputs.end(), t ? half : n->outputs.begin(), t ? n->outputs.end() : half);
        }
      merge(i, position);
      node(position) = std::move(joined);
    }
  }
  static bool reads(const Node& n, const std::vector<ValueId>& values) {
    return std::find_first_of(n.inputs.begin(), n.inputs.end(), values.begin(), values.end()) != n.inputs.end();
  }

  void run() {
    for (int i = 0; i < size(); i++) fuse_adapters(i);
    for (int i = 0; i < size(); i++) join(i);
  }
};

}  // namespace

Graph fuse_lora(Graph graph) { return rewritten<LoraFuser>(std::move(graph)); }

}  // namespace lorafuse
