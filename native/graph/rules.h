// The graph's rules for each op. shapes.cc and gradients.cc specialise both templates; an op without them does not link.
#pragma once
#include <map>

#include "graph.h"

namespace lorafuse {

class Backward;

template <class AnyOp> std::vector<Shape> shapes_of(const AnyOp& op, const std::vector<Shape>& inputs);
template <class AnyOp> void gradient(const AnyOp& op, Backward& b);

// Reverse-mode differentiation of a graph. A rule sees one node: its inputs and outputs, and dy, the gradient of its first output.
// It must add() a gradient for every input that needs one: run() throws NO_GRADIENT for one that it leaves out.
class Backward {
 public:
  // recompute: what a rule names of its own region is computed again, just before.
  Backward(const Graph& forward, const Recompute& recompute);

  ValueId in(size_t i) const { return node_->inputs.at(i); }
  ValueId out(size_t i) const { return node_->outputs.at(i); }
  ValueId dy() const { return grads_[node_->outputs[0]]; }
  const Shape& shape(ValueId v) const { return graph_.shape(v); }
  // Whether input i depends on a parameter; not where the op has no such input.
  bool needs(size_t i) const { return i < node_->inputs.size() && needed_[in(i)]; }
  bool is_parameter(size_t i) const { return graph_.values[in(i)].storage == Storage::parameter; }

  ValueId emit(Op op, const std::vector<ValueId>& inputs) { return graph_.emit(std::move(op), held(inputs)); }
  std::vector<ValueId> emit_all(Op op, const std::vector<ValueId>& inputs) { return graph_.emit_all(std::move(op), held(inputs)); }
  // dx is another summand of the gradient of input i, if that needs one.
  void add(size_t i, ValueId dx);
  // Input i is a parameter: `op` adds to its gradient, which persists between runs.
  void accumulate(size_t i, Op op, const std::vector<ValueId>& inputs);

  Graph run(ValueId loss);

 private:
  std::vector<ValueId> held(std::vector<ValueId> values);
  bool is_recomputed(ValueId v) const;
  void recompute(ValueId v);
  const Value& parameter_behind(ValueId v) const;
  [[noreturn]] void refuse(const Node& node, const char* what, size_t position, ValueId v) const;

  Graph graph_;
  const std::vector<Node> forward_;
  std::vector<int> region_of_;             // of forward nodes: counts the blocks and parts that are recomputed; 0: none
  std::vector<int> maker_;                 // per forward value: the node that makes it, or −1
  std::vector<ValueId> again_;             // per forward value: its like that was computed again
  const Node* node_ = nullptr;             // the one whose rule runs
  std::vector<bool> handled_;              // its inputs that got a gradient
  std::vector<bool> needed_;               // per forward value: depends on a parameter
  std::vector<ValueId> grads_;             // of forward values
  std::map<ValueId, ValueId> parameters_;  // and their gradients
};

}  // namespace lorafuse
