// WeightGrads move down to the next one and become one node with it: they are small, and one alone leaves most of a GPU idle.
// What they read stays alive that much longer, so they do not move past where much memory would be free without them.
#include <algorithm>
#include <set>

#include "graph.h"

namespace lorafuse {
namespace {

constexpr size_t kMostHeldBytes = size_t{16} << 20;

struct WeightGradFuser {
  explicit WeightGradFuser(Graph fused) : graph(std::move(fused)), last_use(graph.values.size(), 0) {
    for (size_t i = 0; i < graph.nodes.size(); i++)
      for (ValueId v : graph.nodes[i].inputs) last_use[v] = i;
    for (ValueId v : graph.results) last_use[v] = graph.nodes.size();
  }

  // Bytes that `node` alone keeps alive until position `i`.
  size_t held(const Node& node, size_t i) const {
    size_t bytes = 0;
    for (ValueId v : std::set<ValueId>(node.inputs.begin(), node.inputs.end()))
      if (last_use[v] < i) bytes += graph.values[v].bytes();
    return bytes;
  }

  // Two may not add to one gradient: who comes first would be open.
  bool may_join(const Node& node, size_t i) const {
    const auto& others = graph.nodes[i].outputs;
    const bool apart = std::none_of(node.outputs.begin(), node.outputs.end(),
                                    [&](ValueId g) { return std::find(others.begin(), others.end(), g) != others.end(); });
    return apart && held(node, i) <= kMostHeldBytes;
  }

  void run() {
    std::vector<bool> moved(graph.nodes.size(), false);
    Node* open = nullptr;  // the latest WeightGrad
    for (size_t i = 0; i < graph.nodes.size(); i++) {
      Node& node = graph.nodes[i];
      if (!std::holds_alternative<WeightGrad>(node.op)) continue;
      if (open && may_join(*open, i)) {
        prepend(std::get<WeightGrad>(open->op).scales, std::get<WeightGrad>(node.op).scales);
        prepend(open->inputs, node.inputs);
        prepend(open->outputs, node.outputs);
        moved[open - graph.nodes.data()] = true;
      }
      open = &node;
    }
    std::vector<Node> kept;
    for (size_t i = 0; i < moved.size(); i++)
      if (!moved[i]) kept.push_back(std::move(graph.nodes[i]));
    graph.nodes = std::move(kept);
  }

  template <class T>
  static void prepend(const std::vector<T>& first, std::vector<T>& to) {
    to.insert(to.begin(), first.begin(), first.end());
  }

  Graph graph;
  std::vector<size_t> last_use;  // node that reads each value last
};

}  // namespace

Graph fuse_weight_grads(Graph graph) {
  WeightGradFuser fuser(std::move(graph));
  fuser.run();
  return std::move(fuser.graph);
}

}  // namespace lorafuse
