// What a node of a graph has to do at least: floating-point operations, and bytes read and written once.
#pragma once
#include "graph.h"

namespace lorafuse {

struct Cost {
  double flops = 0;
  size_t bytes = 0;
};
Cost cost_of(const Graph& graph, const Node& node);

}  // namespace lorafuse
