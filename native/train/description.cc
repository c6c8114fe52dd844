#include "description.h"

#include <algorithm>

#include "../graph/cost.h"

namespace lorafuse {

Description describe(const Program& program) {
  constexpr size_t kLargest = 10;
  const Graph& graph = program.graph();
  const Plan& plan = program.plan();
  Description d;
  std::vector<const std::string*> layer_of(graph.values.size(), nullptr);
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    const Node& node = graph.nodes[i];
    const Cost cost = cost_of(graph, node);
    d.nodes.push_back({name_of(node.op), node.layer, cost.flops, cost.bytes, plan.alive[i], graph.shape(node.outputs[0])});
    for (ValueId v : node.outputs) layer_of[v] = &node.layer;
  }
  const auto peak = static_cast<int32_t>(std::ranges::max_element(plan.alive) - plan.alive.begin());
  std::vector<size_t> held;
  for (size_t v = 0; v < graph.values.size(); v++)
    if (graph.values[v].is_planned() && plan.first_use[v] <= peak && peak <= plan.last_use[v]) held.push_back(v);
  std::stable_sort(held.begin(), held.end(), [&](size_t a, size_t b) { return graph.values[a].bytes() > graph.values[b].bytes(); });
  held.resize(std::min(held.size(), kLargest));
  for (size_t v : held) {
    const Value& value = graph.values[v];
    d.largest.push_back({value.name, layer_of[v] ? *layer_of[v] : "", value.shape, value.bytes()});
  }
  return d;
}

}  // namespace lorafuse
