#include "debug.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "description.h"

namespace lorafuse {
namespace {

// The one place that reads the variable; unknown words are named.
bool wanted(const char* what) {
  // Never destroyed: process.exit() does not wait for a step.
  static const auto& words = *[] {
    auto& known = *new std::set<std::string>;
    const char* value = std::getenv("LORAFUSE_DEBUG");
    std::istringstream list(value ? value : "");
    for (std::string word; std::getline(list, word, ',');) {
      if (word == "plan" || word == "graph" || word == "time" || word == "nan") known.insert(word);
      else std::fprintf(stderr, "LORAFUSE_DEBUG: expected plan, graph, time or nan but received %.40s\n", word.c_str());
    }
    return &known;
  }();
  return words.contains(what);
}

double mebibytes(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void write_plan(const std::string& what, const Program& program) {
  const Plan& plan = program.plan();
  std::fprintf(stderr, "plan %s: %zu nodes, arena %.1f MiB, at least %.1f, largest workspace %.1f\n", what.c_str(),
               program.graph().nodes.size(), mebibytes(plan.arena_bytes), mebibytes(plan.lower_bound_bytes),
               mebibytes(program.workspace_bytes()));
  for (const auto& [name, layer, shape, bytes] : describe(program).largest)
    std::fprintf(stderr, "  %8.1f MiB %s %s %s\n", mebibytes(bytes), name.c_str(), shape.str().c_str(), layer.c_str());
}

void write_graph(const std::string& what, const Graph& graph) {
  std::fprintf(stderr, "graph %s\n", what.c_str());
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    const Node& node = graph.nodes[i];
    std::fprintf(stderr, "  %5zu %s (", i, name_of(node.op));
    for (ValueId v : node.inputs) std::fprintf(stderr, "%d ", v);
    std::fprintf(stderr, ") ->");
    for (ValueId v : node.outputs) std::fprintf(stderr, " %d %s %s", v, name_of(graph.values[v].dtype), graph.shape(v).str().c_str());
    std::fprintf(stderr, "  %s\n", node.layer.c_str());
  }
}

bool is_finite(Program& program, ValueId v) {
  if (program.graph().values[v].dtype == DType::i32) return true;
  std::vector<float> data(program.graph().shape(v).elements());
  program.read_value(v, data.data());
  return std::all_of(data.begin(), data.end(), [](float x) { return std::isfinite(x); });
}

// Of each kind of op, and of each block of the network: how many nodes, milliseconds.
void write_times(const Graph& graph, const std::vector<double>& seconds) {
  std::map<std::string, std::pair<int, double>> of_ops, of_blocks;
  for (size_t i = 0; i < graph.nodes.size(); i++) {
    const Node& node = graph.nodes[i];
    for (auto* time : {&of_ops[name_of(node.op)], &of_blocks[node.block.empty() ? "no block" : node.block]}) {
      time->first++;
      time->second += 1e3 * seconds[i];
    }
  }
  for (const auto& times : {of_ops, of_blocks})
    for (const auto& [name, time] : times) std::fprintf(stderr, "time %-48s %5d nodes %9.3f ms\n", name.c_str(), time.first, time.second);
}

}  // namespace

void debug(const std::string& what, const Program& program) {
  if (wanted("plan")) write_plan(what, program);
  if (wanted("graph")) write_graph(what, program.graph());
}

void run_program(Program& program, std::function<void()> end, Program::Times* times) {
  const bool writes_times = wanted("time"), finds_nan = wanted("nan");
  if (!times && !writes_times && !finds_nan) return program.run(std::move(end));
  bool found = !finds_nan;
  const Program::Times taken = program.run_timed(end, [&](size_t i) {
    const Node& node = program.graph().nodes[i];
    if (found || std::all_of(node.outputs.begin(), node.outputs.end(), [&](ValueId v) { return is_finite(program, v); })) return;
    found = true;
    std::fprintf(stderr, "nan: node %zu, %s, in the layer %s\n", i, name_of(node.op), node.layer.c_str());
  });
  if (writes_times) write_times(program.graph(), taken.nodes);
  if (times) *times = taken;
}

}  // namespace lorafuse
