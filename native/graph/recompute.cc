// Which blocks are worth being computed again: bytes that a step need not keep, for the operations it does twice.
#include <algorithm>
#include <map>

#include "cost.h"

namespace lorafuse {
namespace {

using Kind = std::string Node::*;

struct Candidate {
  std::string name;
  size_t bytes = 0;  // that the forward pass need not keep
  double flops = 0;  // that the backward pass does again
  double worth() const { return static_cast<double>(bytes) / std::max(flops, 1.0); }
};

// What a backward pass takes from the forward pass, and does, by block or part.
std::map<std::string, Candidate> totals(const Graph& forward, const Graph& step, Kind kind) {
  std::map<std::string, Candidate> all;
  std::set<ValueId> kept;
  for (size_t i = forward.nodes.size(); i < step.nodes.size(); i++) {
    all[step.nodes[i].*kind].flops += cost_of(step, step.nodes[i]).flops;
    kept.insert(step.nodes[i].inputs.begin(), step.nodes[i].inputs.end());
  }
  for (const Node& node : forward.nodes)
    for (ValueId v : node.outputs)
      if (kept.contains(v)) all[node.*kind].bytes += step.values[v].bytes();
  return all;
}

// Blocks and parts that keep less when they are computed again, those first that are worth most.
std::vector<Candidate> candidates(const Graph& forward, ValueId loss) {
  std::vector<Candidate> all;
  const Graph step = gradients(forward, loss);
  for (const Kind kind : {&Node::part, &Node::block}) {
    const std::set<std::string> chosen = region_names(forward, kind);
    const auto before = totals(forward, step, kind), after = totals(forward, gradients(forward, loss, Recompute(chosen)), kind);
    for (const std::string& n : chosen) {
      const auto b = before.find(n), a = after.find(n);
      if (b == before.end() || a == after.end() || a->second.bytes >= b->second.bytes) continue;
      all.push_back({n, b->second.bytes - a->second.bytes, a->second.flops - b->second.flops});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.worth() > b.worth(); });
  return all;
}

}  // namespace

std::set<std::string> region_names(const Graph& graph, std::string Node::* kind) {
  std::set<std::string> all;
  for (const Node& node : graph.nodes) all.insert(node.*kind);
  all.erase("");
  return all;
}

const std::string& Recompute::region(const Node& node) const {
  static const std::string kKept;
  if (!node.block.empty() && (all || names.contains(node.block))) return node.block;
  return names.contains(node.part) ? node.part : kKept;
}

std::optional<Recompute> cheapest_recompute(const Graph& forward, ValueId loss, const std::function<bool(const Graph& step)>& fits) {
  const auto fitting = [&](const Recompute& recompute) { return fits(gradients(forward, loss, recompute)); };
  if (fitting({})) return Recompute();
  if (!fitting(true)) return std::nullopt;
  const std::vector<Candidate> order = candidates(forward, loss);
  const auto first = [&](size_t count) {
    std::set<std::string> chosen;
    for (size_t i = 0; i < count; i++) chosen.insert(order[i].name);
    return Recompute(std::move(chosen));
  };
  size_t few = 0, enough = order.size();
  while (few + 1 < enough) {
    const size_t middle = (few + enough) / 2;
    (fitting(first(middle)) ? enough : few) = middle;
  }
  return enough < order.size() || fitting(first(enough)) ? first(enough) : Recompute(true);
}

}  // namespace lorafuse
