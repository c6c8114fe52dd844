#include "graphs.h"

#include "train/program.h"

namespace lorafuse::test {

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
    if (value.name == "timesteps") {  // early ones: the f32 angle of a late one would be all of a graph's error
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

Outcome execute(Backend& backend, const Graph& graph, const Feed& feed, bool poison) {
  std::map<const Value*, std::vector<unsigned char>> memory;
  Program program(backend, graph, [&](const Value& value) {
    // The program holds a copy of the graph: a value is known by its place in it.
    auto& bytes = memory[&value];
    bytes.assign(value.bytes(), 0);
    return Tensor{bytes.data(), value.dtype, value.shape};
  });
  const Graph& held = program.graph();
  const Guarded arena(program.arena_bytes());
  program.place(arena.data());
  for (const auto& [v, data] : feed) {
    const Value& value = held.values[v];
    const auto bytes = stored(value.dtype, data);
    if (value.storage == Storage::input) program.write(value.name, bytes.data());
    else std::copy(bytes.begin(), bytes.end(), memory.at(&value).begin());
  }
  program.run(poison);
  arena.expect_intact("the arena");
  Outcome outcome;
  for (size_t i = 0; i < held.results.size(); i++) {
    auto& data = outcome[held.results[i]];
    data.resize(program.result_shape(i).elements());
    program.read(i, data.data());
  }
  for (ValueId v : remaining(held))
    if (held.values[v].storage == Storage::gradient) {
      const auto* data = reinterpret_cast<const float*>(memory.at(&held.values[v]).data());
      outcome[v].assign(data, data + held.shape(v).elements());
    }
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
  results += r.l2();
  gradients += g.l2();
}

Outcome outcome_of(const Graph& graph, const std::vector<Array<float>>& values) {
  Outcome outcome;
  for (ValueId v : remaining(graph)) outcome[v] = values[v].data;
  return outcome;
}

void expect_as_good(const GraphDeviation& actual, const GraphDeviation& naive) {
  EXPECT(actual.results <= 2 * naive.results, "the results have errors of ", actual.results, ", plain f32 loops ", naive.results);
  EXPECT(actual.gradients <= 2 * naive.gradients, "the gradients have errors of ", actual.gradients, ", plain f32 loops ", naive.gradients);
}

}  // namespace lorafuse::test
