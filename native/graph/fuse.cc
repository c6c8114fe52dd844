// Rewrites after gradients(): an Add disappears into the product, or the gradient of a norm, that made one of its operands.
#include "rewrite.h"

namespace lorafuse {
namespace {

// How far (in nodes) a producer may be moved down to the Add that absorbs it: moving it keeps its inputs alive longer.
constexpr int kResidualReach = 6;

// The residual attribute of a node's op; null where it cannot have one.
bool* residual_of(Node& node) {
  return std::visit(
      [](auto& op) -> bool* {
        if constexpr (requires { op.epilogue; }) return op.epilogue.gate == Gate::none ? &op.epilogue.residual : nullptr;
        else if constexpr (requires { op.residual; }) return &op.residual;
        else return nullptr;
      },
      node.op);
}

struct AddFuser : Rewrite {
  using Rewrite::Rewrite;

  // Position of the node that made `v` and may absorb the Add: nothing else reads v. Otherwise −1.
  int maker(ValueId v, int add) {
    const int i = producer[v];
    return i >= 0 && !removed(i) && uses[v] == 1 && add - i <= kResidualReach && residual_of(node(i)) ? i : -1;
  }

  // `merged` does the work of the Add and of the node that it absorbed.
  void replace(int add, int absorbed, Node merged) {
    merge(absorbed, add);
    merged.outputs = node(add).outputs;
    node(add) = std::move(merged);
  }

  // y = a + b, both MatMuls: all operand pairs in one product. Both biases cannot be kept, nor both residuals.
  bool merge_pairs(int add, int a, int b) {
    const MatMul *first = as<MatMul>(a), *second = as<MatMul>(b);
    if (!first || !second || a == b) return false;
    const Epilogue &one = first->epilogue, &other = second->epilogue;
    if ((one.bias && other.bias) || (one.residual && other.residual)) return false;
    MatMul op{first->pairs, {one.bias || other.bias, one.residual || other.residual}};
    append(op.pairs, second->pairs);
    Node merged = node(a);
    merged.inputs.clear();
    for (int i : {a, b})
      merged.inputs.insert(merged.inputs.end(), node(i).inputs.begin(), node(i).inputs.begin() + as<MatMul>(i)->operands());
    for (size_t (*position)(const MatMul&) : {bias_input<MatMul>, residual_input<MatMul>})
      for (int i : {a, b})
        if (const size_t at = position(*as<MatMul>(i)); at != kAbsent) merged.inputs.push_back(node(i).inputs[at]);
    merged.op = std::move(op);
    remove(b);
    replace(add, a, std::move(merged));
    return true;
  }

  bool absorb_residual(int add, int made, ValueId other) {
    if (made < 0) return false;
    Node merged = node(made);
    bool& residual = *residual_of(merged);
    if (residual) return false;
    residual = true;
    merged.inputs.push_back(other);
    replace(add, made, std::move(merged));
    return true;
  }

  void run(const FuseOptions& options) {
    for (int i = 0; i < size(); i++) {
      if (!as<Add>(i)) continue;
      ValueId a = node(i).inputs[0], b = node(i).inputs[1];
      if (a == b || (options.pairs && merge_pairs(i, maker(a, i), maker(b, i))) || !options.residual) continue;
      if (producer[a] <= producer[b]) std::swap(a, b);  // the later of the two first
      if (!absorb_residual(i, maker(a, i), b)) absorb_residual(i, maker(b, i), a);
    }
  }
};

}  // namespace

Graph fuse(Graph graph, FuseOptions options) {
  graph = rewritten<AddFuser>(std::move(graph), options);
  if (options.lora) graph = fuse_lora(std::move(graph));
  if (options.geglu) graph = fuse_geglu(std::move(graph));
  return options.weight_grads ? fuse_weight_grads(std::move(graph)) : graph;
}

}  // namespace lorafuse
