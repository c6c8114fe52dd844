// A graph while a pass rewrites it: who makes and who reads each value, and which nodes go or move.
#pragma once
#include <algorithm>
#include <utility>

#include "graph.h"

namespace lorafuse {

class Rewrite {
 public:
  explicit Rewrite(Graph g)
      : graph(std::move(g)), producer(graph.values.size(), -1), uses(graph.values.size(), 0), last_use(graph.values.size(), -1),
        removed_(graph.nodes.size(), false), behind_(graph.nodes.size()) {
    for (int i = 0; i < size(); i++) {
      for (ValueId v : graph.nodes[i].inputs) uses[v]++, last_use[v] = i;
      for (ValueId v : graph.nodes[i].outputs) producer[v] = i;
    }
    for (ValueId v : graph.results) uses[v]++, last_use[v] = size();
  }

  Graph graph;                // nodes stay where they are until finish()
  std::vector<int> producer;  // per value: position of the node that writes it, or −1
  std::vector<int> uses;      // readers in the graph as it came; results count
  std::vector<int> last_use;  // position of the last of them

  int size() const { return static_cast<int>(graph.nodes.size()); }
  Node& node(int i) { return graph.nodes[i]; }
  const Node& node(int i) const { return graph.nodes[i]; }
  // Node i as this op; null where it is another or removed.
  template <class AnyOp> const AnyOp* as(int i) const { return i < 0 || removed_[i] ? nullptr : std::get_if<AnyOp>(&graph.nodes[i].op); }

  bool removed(int i) const { return removed_[i]; }
  void remove(int i) { removed_[i] = true; }
  // Node i is removed as node `to` does its work; what moves behind i moves behind `to`.
  void merge(int i, int to) {
    remove(i);
    behind_[to].insert(behind_[to].end(), behind_[i].begin(), behind_[i].end());
    behind_[i].clear();
  }
  // Node i runs right after node `after`.
  void move_behind(int after, int i) { behind_[after].push_back(i); }

  // The nodes that are left, in their new order.
  Graph finish() {
    std::vector<bool> moved(size(), false);
    for (const auto& list : behind_)
      for (int i : list) moved[i] = true;
    std::vector<Node> nodes;
    for (int i = 0; i < size(); i++) {
      if (removed_[i] || moved[i]) continue;
      nodes.push_back(std::move(graph.nodes[i]));
      for (int j : behind_[i]) nodes.push_back(std::move(graph.nodes[j]));
    }
    graph.nodes = std::move(nodes);
    return std::move(graph);
  }

 private:
  std::vector<bool> removed_;
  std::vector<std::vector<int>> behind_;
};

// The graph after a pass: a Rewrite with run().
template <class Pass, class... Options> Graph rewritten(Graph graph, const Options&... options) {
  Pass pass(std::move(graph));
  pass.run(options...);
  return pass.finish();
}

template <class T> void append(std::vector<T>& to, const std::vector<T>& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace lorafuse
