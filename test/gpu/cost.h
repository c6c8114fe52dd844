// What a node of a graph has to do at least: floating-point operations, and bytes read and written once.
#pragma once
#include <string>

#include "graph/graph.h"

namespace lorafuse::test {

struct Cost {
  double flops = 0;
  size_t bytes = 0;
};
Cost cost_of(const Graph& graph, const Node& node);
std::string described(const Graph& graph, const Node& node);  // the op, its shapes

}  // namespace lorafuse::test
