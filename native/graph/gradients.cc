// Reverse-mode differentiation: one short rule for each op that can stand between a parameter and the loss.
#include <map>

#include "graph.h"

namespace lorafuse {
namespace {

class Backward {
 public:
  explicit Backward(const Graph& forward) : graph(forward), needed_(forward.values.size(), false), grads_(forward.values.size(), kNone) {
    for (size_t v = 0; v < forward.values.size(); v++) needed_[v] = forward.values[v].storage == Storage::parameter;
    for (const Node& node : forward.nodes)
      for (ValueId in : node.inputs)
        if (needed_[in])
          for (ValueId out : node.outputs) needed_[out] = true;
  }

  // What a rule may use: `in(i)`, `out(i)` of the forward node, `dy()` of its first output, `needs(i)`, `emit`, and `add(i, dx)`.
  ValueId in(size_t i) const { return node->inputs.at(i); }
  ValueId out(size_t i) const { return node->outputs.at(i); }
  ValueId dy() const { return grads_[node->outputs[0]]; }
  bool needs(size_t i) const { return needed_[node->inputs.at(i)]; }
  ValueId emit(Op op, std::vector<ValueId> inputs) { return graph.emit(std::move(op), std::move(inputs)); }
  void add(size_t i, ValueId dx) {
    ValueId& sum = grads_[in(i)];
    sum = sum == kNone ? dx : emit(Add{}, {sum, dx});
  }
  bool is_parameter(size_t i) const { return graph.values[in(i)].storage == Storage::parameter; }
  // dW of parameter input i, added into its persistent gradient value.
  void add_to_parameter(size_t i, float scale, ValueId dy, ValueId x) {
    const Value& parameter = graph.values[in(i)];
    auto [found, is_new] = parameters_.try_emplace(in(i), kNone);
    if (is_new)
      found->second =
          graph.value({parameter.name, parameter.shape, DType::f32, Storage::gradient, parameter.network, Form::as_is, parameter.group});
    graph.nodes.push_back({WeightGrad{{scale}}, {dy, x}, {found->second}});
  }

  void run(ValueId loss);

  Graph graph;
  const Node* node = nullptr;

 private:
  std::vector<bool> needed_;
  std::vector<ValueId> grads_;  // of forward values
  std::map<ValueId, ValueId> parameters_;
};

// ---- the rules ----

void gradient(const MatMul& op, Backward& b) {
  for (size_t i = 0; i < op.pairs.size(); i++) {
    const auto [scale, transposed] = op.pairs[i];
    if (b.needs(2 * i)) b.add(2 * i, b.emit(MatMul{{{scale, !transposed}}}, {b.dy(), b.in(2 * i + 1)}));
    if (!b.is_parameter(2 * i + 1)) continue;
    if (transposed) b.add_to_parameter(2 * i + 1, scale, b.in(2 * i), b.dy());
    else b.add_to_parameter(2 * i + 1, scale, b.dy(), b.in(2 * i));
  }
  if (op.residual && b.needs(b.node->inputs.size() - 1)) b.add(b.node->inputs.size() - 1, b.dy());
}

void gradient(const Conv2d& op, Backward& b) {
  const Shape& x = b.graph.shape(b.in(0));
  if (b.needs(0)) b.add(0, b.emit(ConvTranspose2d{op.kernel, op.stride, op.before, op.after, x[1], x[2]}, {b.dy(), b.in(1)}));
  if (op.residual && b.needs(b.node->inputs.size() - 1)) b.add(b.node->inputs.size() - 1, b.dy());
}

void gradient(const ConvTranspose2d& op, Backward& b) {
  if (b.needs(0)) b.add(0, b.emit(Conv2d{op.kernel, op.stride, op.before, op.after}, {b.dy(), b.in(1)}));
  if (op.residual && b.needs(b.node->inputs.size() - 1)) b.add(b.node->inputs.size() - 1, b.dy());
}

void gradient(const Attention& op, Backward& b) {
  CHECK(!op.causal, "NO_GRADIENT", "[attention] causal attention has no gradient");
  const auto d = b.graph.emit_all(AttentionGrad{op.heads}, {b.in(0), b.in(1), b.in(2), b.out(0), b.out(1), b.dy()});
  for (size_t i = 0; i < 3; i++)
    if (b.needs(i)) b.add(i, d[i]);
}

void gradient(const GroupNorm& op, Backward& b) {
  b.add(0, b.emit(GroupNormGrad{op.groups, op.silu}, {b.in(0), b.in(1), b.in(2), b.out(1), b.dy()}));
}
void gradient(const LayerNorm&, Backward& b) { b.add(0, b.emit(LayerNormGrad{}, {b.in(0), b.in(1), b.out(1), b.dy()})); }
void gradient(const Activation& op, Backward& b) { b.add(0, b.emit(ActivationGrad{op.function}, {b.in(0), b.dy()})); }
void gradient(const Geglu&, Backward& b) { b.add(0, b.emit(GegluGrad{}, {b.in(0), b.dy()})); }

void gradient(const Add&, Backward& b) {
  for (size_t i = 0; i < 2; i++)
    if (b.needs(i)) b.add(i, b.dy());
}

void gradient(const AddPerSample&, Backward& b) {
  if (b.needs(0)) b.add(0, b.dy());
  if (b.needs(1)) b.add(1, b.emit(SumPositions{}, {b.dy()}));
}

void gradient(const Concat&, Backward& b) {
  const int64_t first = b.graph.shape(b.in(0))[-1], all = b.graph.shape(b.out(0))[-1];
  if (b.needs(0)) b.add(0, b.emit(Slice{0, first}, {b.dy()}));
  if (b.needs(1)) b.add(1, b.emit(Slice{first, all}, {b.dy()}));
}

// The root: nothing stands behind the loss.
void gradient(const MseLoss&, Backward& b) { b.add(0, b.emit(MseLossGrad{}, {b.in(0), b.in(1), b.in(2)})); }

// The rest never stands between a parameter and the loss of a network we build.
template <class AnyOp>
void gradient(const AnyOp& op, Backward&) {
  throw Error("NO_GRADIENT", text("[", name_of(Op(op)), "] has no gradient rule"));
}

void Backward::run(ValueId loss) {
  CHECK(needed_.at(loss), "NO_GRADIENT", "[gradients] the loss depends on no parameter");
  const std::vector<Node> forward = graph.nodes;
  for (auto n = forward.rbegin(); n != forward.rend(); ++n) {
    const bool is_root = n->outputs[0] == loss;
    if (!is_root && (!needed_[n->outputs[0]] || grads_[n->outputs[0]] == kNone)) continue;
    node = &*n;
    graph.layer = n->layer;
    graph.block = n->block;
    std::visit([&](const auto& op) { gradient(op, *this); }, n->op);
  }
}

}  // namespace

Graph gradients(const Graph& forward, ValueId loss) {
  Backward backward(forward);
  backward.run(loss);
  return std::move(backward.graph);
}

}  // namespace lorafuse
