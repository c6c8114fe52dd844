#include "graphs.h"

#include "train/program.h"

namespace lorafuse::test {

// Where integers end: rows that are gathered from a tensor are within it; a made-up vocabulary has 30 tokens or more.
static int64_t indices_end(const Graph& graph, ValueId indices) {
  int64_t end = 30;
  for (const Node& node : graph.nodes)
    if (std::holds_alternative<Gather>(node.op) && node.inputs[1] == indices) end = std::min(end, graph.shape(node.inputs[0]).rows());
  return end;
}

Feed random_feed(const Graph& graph, uint64_t seed) {
  Random random(seed);
  Feed feed;
  for (size_t v = 0; v < graph.values.size(); v++) {
    const Value& value = graph.values[v];
    const int64_t count = value.shape.elements();
    if (value.storage == Storage::activation) continue;
    std::vector<float>& data = feed[static_cast<ValueId>(v)];
    const bool vector = value.shape.rank() == 1;
    const int64_t taps = value.shape.rank() == 3 ? value.shape[0] : 1;
    if (value.dtype == DType::i32) {
      const int64_t end = indices_end(graph, static_cast<ValueId>(v));
      for (int64_t i = 0; i < count; i++) data.push_back(static_cast<float>(random.below(end)));
    } else if (value.name == "timesteps" ||
               value.name == "time_ids") {  // early ones: the f32 angle of a late one would be all of a graph's error
      for (int64_t i = 0; i < count; i++) data.push_back(static_cast<float>(random.below(10)));
    } else if (value.storage == Storage::input && !vector) {
      data = random.normals(count);
    } else {
      data = vector ? random.normals(count, 0.2f, 1) : random.normals(count, 1 / std::sqrt(static_cast<float>(value.shape[-1] * taps)));
    }
    for (float& x : data) x = rounded(value.dtype, x);
  }
  return feed;
}

std::vector<ValueId> remaining(const Graph& graph) {
  std::vector<ValueId> all = graph.results;
  for (size_t v = 0; v < graph.values.size(); v++)
    if (graph.values[v].storage == Storage::gradient) all.push_back(static_cast<ValueId>(v));
  return all;
}

// Memory is filled with NaN as soon as the plan says that nobody reads it any more.
static void run_poisoned(Program& program, Backend& backend) {
  const Graph& graph = program.graph();
  program.run_each([&](size_t i) {
    for (const auto* list : {&graph.nodes[i].inputs, &graph.nodes[i].outputs})
      for (ValueId v : *list) {
        const bool planned = graph.values[v].storage == Storage::activation || graph.values[v].storage == Storage::input;
        if (planned && program.plan().last_use[v] == static_cast<int32_t>(i))
          backend.fill(program.tensor(v).data, 0xff, program.tensor(v).bytes());
      }
    backend.fill(program.workspace(i), 0xff, program.workspaces()[i]);
  });
}

Outcome execute(Backend& backend, const Graph& graph, const Feed& feed, bool poison) {
  std::map<const Value*, Held> memory;
  Program program(backend, graph, [&](const Value& value) {
    // The program holds a copy of the graph: a value is known by its place in it.
    const Held& held = memory.emplace(&value, Held(backend, std::vector<unsigned char>(value.bytes()))).first->second;
    return Tensor{held.data(), value.dtype, value.shape};
  });
  const Graph& held = program.graph();
  // The CPU's has sentinels around it; beyond the GPU's there is nothing.
  const bool on_host = backend.reads_host_memory();
  const Guarded guarded(on_host ? program.arena_bytes() : 0);
  const Held on_gpu(backend, on_host ? 0 : program.arena_bytes());
  program.place(on_host ? guarded.data() : on_gpu.data());
  for (const auto& [v, data] : feed) {
    const Value& value = held.values[v];
    const auto bytes = stored(value.dtype, data);
    if (value.storage == Storage::input)
      program.write(value.name, value.dtype == DType::i32 ? static_cast<const void*>(bytes.data()) : data.data());
    else backend.upload(memory.at(&value).data(), bytes.data(), bytes.size());
  }
  if (poison) run_poisoned(program, backend);
  else program.run();
  guarded.expect_intact("the arena");
  Outcome outcome;
  for (size_t i = 0; i < held.results.size(); i++) {
    auto& data = outcome[held.results[i]];
    data.resize(program.result_shape(i).elements());
    program.read(i, data.data());
  }
  for (ValueId v : remaining(held))
    if (held.values[v].storage == Storage::gradient) outcome[v] = loaded(DType::f32, memory.at(&held.values[v]).read());
  return outcome;
}

bool same_bits(const Outcome& a, const Outcome& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [v, data] : a)
    if (data.size() != b.at(v).size() || std::memcmp(data.data(), b.at(v).data(), data.size() * sizeof(float)) != 0) return false;
  return true;
}

void GraphDeviation::add(const Graph& graph, const Outcome& outcome, const std::vector<Array<double>>& expected) {
  Deviation r, g;
  for (const auto& [v, data] : outcome) (graph.values[v].storage == Storage::gradient ? g : r).add(std::span(data), expected[v]);
  const auto log_of = [](double error) { return std::log(std::max(error, 0x1p-53)); };  // below, f64's own
  log_results_ += log_of(r.l2());
  log_gradients_ += log_of(g.l2());
  trials_++;
}

Outcome outcome_of(const Graph& graph, const std::vector<Array<float>>& values) {
  Outcome outcome;
  for (ValueId v : remaining(graph)) outcome[v] = values[v].data;
  return outcome;
}

void expect_as_good(const GraphDeviation& actual, const GraphDeviation& naive) {
  const auto compare = [](const char* what, double error, double plain) {
    EXPECT(error <= 2 * plain, "the ", what, " have errors of ", error, ", plain f32 loops ", plain);
  };
  compare("results", actual.results(), naive.results());
  compare("gradients", actual.gradients(), naive.gradients());
}

}  // namespace lorafuse::test
