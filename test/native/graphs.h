// Running whole graphs, by the f64 or f32 reference and by a backend, on the same numbers.
#pragma once
#include <cmath>
#include <map>

#include "backends.h"
#include "reference.h"

namespace lorafuse::test {

// The numbers of inputs, weights, parameters and what gradients begin with (0 where absent). Weights as their dtype holds them.
using Feed = std::map<ValueId, std::vector<float>>;

// Normal inputs, weights and adapters sized to keep the scale, loss weights and gradients that are not 0, early timesteps.
Feed random_feed(const Graph& graph, uint64_t seed);

template <class T> std::vector<Array<T>> interpret(const Graph& graph, const Feed& feed, DType multiplies = DType::f32) {
  std::vector<Array<T>> values(graph.values.size());
  for (const auto& [v, data] : feed) values[v] = Array<T>(graph.shape(v), data);
  return interpret(graph, std::move(values), multiplies);
}

// What remains after a run: the graph's results and the gradients, by value.
using Outcome = std::map<ValueId, std::vector<float>>;

// Plans and runs a graph in an arena of exactly the planned size, full of NaN before.
Outcome execute(Backend& backend, const Graph& graph, const Feed& feed, bool poison = false);

std::vector<ValueId> remaining(const Graph& graph);  // results and gradients
bool same_bits(const Outcome& a, const Outcome& b);

template <class OpKind> int count(const Graph& graph) {
  int found = 0;
  for (const Node& node : graph.nodes) found += std::holds_alternative<OpKind>(node.op);
  return found;
}

// How far outcomes are from the f64 interpretation: relative L2 errors of the results and of all gradients, the geometric means of several
// trials. One rounding early in a network moves everything after it, and now and then a trial is so ill conditioned that it alone would be
// the sum, so no single one decides.
class GraphDeviation {
 public:
  double results() const { return std::exp(log_results_ / trials_); }
  double gradients() const { return std::exp(log_gradients_ / trials_); }
  void add(const Graph& graph, const Outcome& outcome, const std::vector<Array<double>>& expected);

 private:
  double log_results_ = 0, log_gradients_ = 0;
  int trials_ = 0;
};
Outcome outcome_of(const Graph& graph, const std::vector<Array<float>>& values);
void expect_as_good(const GraphDeviation& actual, const GraphDeviation& naive);

}  // namespace lorafuse::test
