#include "cost.h"

namespace lorafuse {
namespace {

struct NodeShapes {
  const Graph& graph;
  const Node& node;
  const Shape& in(size_t i) const { return graph.shape(node.inputs[i]); }
  const Shape& out(size_t i) const { return graph.shape(node.outputs[i]); }
};

double flops(const MatMul& op, const NodeShapes& s) {
  double sum = 0;
  for (size_t i = 0; i < op.pairs.size(); i++)
    sum += 2.0 * static_cast<double>(s.in(2 * i).rows()) * static_cast<double>(s.in(2 * i + 1).elements());
  return sum;
}
template <class Adapted> double adapted_flops(const Adapted& op, const NodeShapes& s) {
  double sum = 0;
  for (size_t i = 0; i < op.scales.size(); i++) {
    const double rows = 2.0 * static_cast<double>(s.in(op.x(i)).rows());
    for (size_t matrix : {op.w(i), op.reduce(i), op.expand(i)}) sum += rows * static_cast<double>(s.in(matrix).elements());
  }
  return sum;
}
double flops(const LoraMatMul& op, const NodeShapes& s) { return adapted_flops(op, s); }
double flops(const LoraMatMulGrad& op, const NodeShapes& s) { return adapted_flops(op, s); }
double flops(const WeightGrad& op, const NodeShapes& s) {
  double sum = 0;
  for (size_t i = 0; i < op.scales.size(); i++)
    sum += 2.0 * static_cast<double>(s.in(2 * i).elements()) * static_cast<double>(s.in(2 * i + 1)[-1]);
  return sum;
}
double flops(const Conv2d& op, const NodeShapes& s) {
  return 2.0 * static_cast<double>(s.out(0).elements()) * static_cast<double>(s.in(0)[-1]) * op.kernel * op.kernel;
}
double flops(const ConvTranspose2d& op, const NodeShapes& s) {
  return 2.0 * static_cast<double>(s.in(0).elements()) * static_cast<double>(s.out(0)[-1]) * op.kernel * op.kernel;
}
double flops(const ConvWeightGrad& op, const NodeShapes& s) {
  return 2.0 * static_cast<double>(s.in(0).elements()) * static_cast<double>(s.in(1)[-1]) * op.kernel * op.kernel;
}
double attention_products(const NodeShapes& s) {  // of one T × S × d product over all heads
  return 2.0 * static_cast<double>(s.in(0).elements()) * static_cast<double>(s.in(1).rows() / s.in(1)[0]);
}
double flops(const Attention&, const NodeShapes& s) { return 2 * attention_products(s); }
double flops(const AttentionGrad&, const NodeShapes& s) { return 5 * attention_products(s); }
template <class AnyOp> double flops(const AnyOp&, const NodeShapes&) { return 0; }  // by the bytes

}  // namespace

Cost cost_of(const Graph& graph, const Node& node) {
  Cost cost{std::visit([&](const auto& op) { return flops(op, NodeShapes{graph, node}); }, node.op), 0};
  for (const auto* list : {&node.inputs, &node.outputs})
    for (ValueId v : *list) cost.bytes += graph.values[v].bytes();
  return cost;
}

}  // namespace lorafuse
