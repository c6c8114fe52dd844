// Reverse-mode differentiation: one short rule for each op that can stand between a parameter and the loss.
#include <algorithm>
#include <set>
#include <string>

#include "rules.h"

namespace lorafuse {

// Ops without a rule: they stand before every parameter, or gradients() and fuse() make them.
template <class AnyOp> constexpr bool kHasNoGradient =
    is_one_of<AnyOp, LoraMatMul, LoraMatMulGrad, WeightGrad, ConvWeightGrad, UpsampleGrad, AttentionGrad, GroupNormGrad, LayerNormGrad,
              ActivationGrad, GegluGrad, SumPositions, Slice, Embedding, GatherGrad, Sinusoid, AddNoise, MseLossGrad>;

// ---- the rules ----

template <> void gradient(const MatMul& op, Backward& b) {
  CHECK(op.epilogue.gate == Gate::none, "NO_GRADIENT", "[mat_mul] a product that ends in a gate has no gradient rule");
  for (size_t i = 0; i < op.pairs.size(); i++) {
    const auto [scale, transposed] = op.pairs[i];
    const ValueId x = b.in(op.x(i)), w = b.in(op.w(i));
    if (b.needs(op.x(i))) b.add(op.x(i), b.emit(MatMul{{{scale, !transposed}}}, {b.dy(), w}));
    if (!b.is_parameter(op.w(i))) continue;
    if (transposed) b.accumulate(op.w(i), WeightGrad{{scale}}, {x, b.dy()});
    else b.accumulate(op.w(i), WeightGrad{{scale}}, {b.dy(), x});
  }
  b.add(residual_input(op), b.dy());
}

template <> void gradient(const Conv2d& op, Backward& b) {
  const Shape& x = b.shape(b.in(0));
  if (b.needs(0))
    b.add(0, b.emit(
                 ConvTranspose2d{
                     .kernel = op.kernel, .stride = op.stride, .before = op.before, .after = op.after, .height = x[1], .width = x[2]},
                 {b.dy(), b.in(1)}));
  if (b.is_parameter(1)) b.accumulate(1, ConvWeightGrad{op.kernel, op.stride, op.before, op.after}, {b.dy(), b.in(0)});
  b.add(residual_input(op), b.dy());
}

template <> void gradient(const ConvTranspose2d& op, Backward& b) {
  if (b.needs(0)) b.add(0, b.emit(Conv2d{op.kernel, op.stride, op.before, op.after}, {b.dy(), b.in(1)}));
  if (b.is_parameter(1)) b.accumulate(1, ConvWeightGrad{op.kernel, op.stride, op.before, op.after}, {b.in(0), b.dy()});
  b.add(residual_input(op), b.dy());
}

template <> void gradient(const Upsample&, Backward& b) { b.add(0, b.emit(UpsampleGrad{}, {b.dy()})); }

template <> void gradient(const Attention& op, Backward& b) {
  const auto d = b.emit_all(AttentionGrad{op.heads, op.causal}, {b.in(0), b.in(1), b.in(2), b.out(0), b.out(1), b.dy()});
  for (size_t i = 0; i < 3; i++) b.add(i, d[i]);
}

template <> void gradient(const GroupNorm& op, Backward& b) {
  b.add(0, b.emit(GroupNormGrad{op.groups, op.silu}, {b.in(0), b.in(1), b.in(2), b.out(1), b.dy()}));
}
template <> void gradient(const LayerNorm&, Backward& b) { b.add(0, b.emit(LayerNormGrad{}, {b.in(0), b.in(1), b.out(1), b.dy()})); }
template <> void gradient(const Activation& op, Backward& b) { b.add(0, b.emit(ActivationGrad{op.function}, {b.in(0), b.dy()})); }
template <> void gradient(const Geglu&, Backward& b) { b.add(0, b.emit(GegluGrad{}, {b.in(0), b.dy()})); }

template <> void gradient(const Add&, Backward& b) {
  for (size_t i = 0; i < 2; i++) b.add(i, b.dy());
}

template <> void gradient(const AddPerSample&, Backward& b) {
  b.add(0, b.dy());
  if (b.needs(1)) b.add(1, b.emit(SumPositions{}, {b.dy()}));
}

template <> void gradient(const Concat&, Backward& b) {
  const int64_t first = b.shape(b.in(0))[-1], all = b.shape(b.out(0))[-1];
  if (b.needs(0)) b.add(0, b.emit(Slice{0, first}, {b.dy()}));
  if (b.needs(1)) b.add(1, b.emit(Slice{first, all}, {b.dy()}));
}

template <> void gradient(const Gather&, Backward& b) { b.add(0, b.emit(GatherGrad{b.shape(b.in(0))}, {b.in(1), b.dy()})); }

// The root: nothing stands behind the loss.
template <> void gradient(const MseLoss&, Backward& b) { b.add(0, b.emit(MseLossGrad{}, {b.in(0), b.in(1), b.in(2)})); }

// ---- what runs them ----

// Whether a block is this one or nested in it, as modules' paths are.
static bool is_within(const std::string& block, const std::string& outer) { return (block + ".").starts_with(outer + "."); }

Backward::Backward(const Graph& forward, const Recompute& recompute)
    : graph_(forward), forward_(forward.nodes), region_of_(forward.nodes.size(), 0), maker_(forward.values.size(), -1),
      again_(forward.values.size(), kNone), needed_(forward.values.size(), false), grads_(forward.values.size(), kNone) {
  // Blocks nest: what an outer one does before and after an inner one are two.
  int regions = 0;
  const std::string* last = nullptr;
  for (size_t i = 0; i < forward_.size(); i++) {
    const std::string& region = recompute.region(forward_[i]);
    if (!last || region != *last) regions++;
    last = &region;
    if (!region.empty()) region_of_[i] = regions;
    for (ValueId v : forward_[i].outputs) maker_[v] = static_cast<int>(i);
  }
  // The last block's gradients follow at once: computing it again would save nothing.
  size_t end = forward_.size();
  while (end > 0 && forward_[end - 1].block.empty()) end--;
  for (size_t i = end; i > 0 && is_within(forward_[i - 1].block, forward_[end - 1].block); i--) region_of_[i - 1] = 0;
  for (size_t v = 0; v < forward.values.size(); v++) needed_[v] = forward.values[v].storage == Storage::parameter;
  for (const Node& node : forward.nodes)
    for (ValueId in : node.inputs)
      if (needed_[in])
        for (ValueId out : node.outputs) needed_[out] = true;
}

void Backward::add(size_t i, ValueId dx) {
  if (!needs(i) || is_parameter(i)) return;
  handled_[i] = true;
  ValueId& sum = grads_[in(i)];
  sum = sum == kNone ? dx : emit(Add{}, {sum, dx});
}

// Whether a rule that names v gets it computed again: where it is made in the region of the rule's node. What others made is kept.
bool Backward::is_recomputed(ValueId v) const {
  if (v >= static_cast<ValueId>(maker_.size()) || maker_[v] < 0) return false;
  const int region = region_of_[maker_[v]];
  return region > 0 && region == region_of_[node_ - forward_.data()];
}

std::vector<ValueId> Backward::held(std::vector<ValueId> values) {
  for (ValueId& v : values)
    if (is_recomputed(v)) {
      if (again_[v] == kNone) recompute(v);
      v = again_[v];
    }
  return values;
}

// Emits again what makes v in its region, in the order of the forward pass, so that it is fused alike.
void Backward::recompute(ValueId v) {
  std::set<int> nodes;
  for (std::vector<ValueId> wanted = {v}; !wanted.empty();) {
    const ValueId next = wanted.back();
    wanted.pop_back();
    if (!is_recomputed(next) || again_[next] != kNone || !nodes.insert(maker_[next]).second) continue;
    const auto& inputs = forward_[maker_[next]].inputs;
    wanted.insert(wanted.end(), inputs.begin(), inputs.end());
  }
  for (int i : nodes) {
    Node again = forward_[i];
    for (ValueId& in : again.inputs)
      if (is_recomputed(in)) in = again_[in];
    for (ValueId& out : again.outputs) out = again_[out] = graph_.value(Value(graph_.values[out]));
    graph_.nodes.push_back(std::move(again));
  }
}

void Backward::accumulate(size_t i, Op op, const std::vector<ValueId>& inputs) {
  handled_[i] = true;
  auto [found, is_new] = parameters_.try_emplace(in(i), kNone);
  if (is_new) {
    Value gradient = graph_.values[in(i)];
    gradient.dtype = DType::f32, gradient.storage = Storage::gradient;
    found->second = graph_.value(std::move(gradient));
  }
  graph_.accumulate(std::move(op), held(inputs), {found->second});
}

// A parameter that v depends on.
const Value& Backward::parameter_behind(ValueId v) const {
  const auto needed = [this](ValueId in) { return needed_[in]; };
  for (auto n = graph_.nodes.rbegin(); n != graph_.nodes.rend() && graph_.values[v].storage != Storage::parameter; ++n)
    if (std::find(n->outputs.begin(), n->outputs.end(), v) != n->outputs.end())
      v = *std::find_if(n->inputs.begin(), n->inputs.end(), needed);
  return graph_.values[v];
}

void Backward::refuse(const Node& node, const char* what, size_t position, ValueId v) const {
  throw Error("NO_GRADIENT",
              text("[", name_of(node.op), "] ", node.layer, node.layer.empty() ? "" : ": ", "expected a gradient of ", what, " ", position,
                   ", which depends on parameter ", parameter_behind(v).name, ", but there is no rule for it"));
}

Graph Backward::run(ValueId loss) {
  CHECK(needed_.at(loss), "NO_GRADIENT", "[gradients] the loss depends on no parameter");
  for (auto n = forward_.rbegin(); n != forward_.rend(); ++n) {
    for (size_t i = 1; i < n->outputs.size(); i++)
      if (grads_[n->outputs[i]] != kNone) refuse(*n, "output", i, n->outputs[i]);
    if (n->outputs[0] != loss && (!needed_[n->outputs[0]] || grads_[n->outputs[0]] == kNone)) continue;
    node_ = &*n;
    handled_.assign(n->inputs.size(), false);
    graph_.layer = n->layer, graph_.block = n->block;
    std::visit(
        [this]<class AnyOp>(const AnyOp& op) {
          if constexpr (!kHasNoGradient<AnyOp>) gradient(op, *this);
        },
        n->op);
    for (size_t i = 0; i < handled_.size(); i++)
      if (needs(i) && !handled_[i]) refuse(*n, "input", i, in(i));
  }
  for (size_t v = 0; v < needed_.size(); v++)
    CHECK(graph_.values[v].storage != Storage::parameter || parameters_.contains(static_cast<ValueId>(v)), "NO_GRADIENT",
          "[gradients] expected the loss to depend on every parameter but it does not on ", graph_.values[v].name);
  graph_.layer = graph_.block = "";
  return std::move(graph_);
}

Graph gradients(const Graph& forward, ValueId loss, const Recompute& recompute) { return Backward(forward, recompute).run(loss); }

}  // namespace lorafuse
