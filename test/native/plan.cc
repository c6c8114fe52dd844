// The planner: properties over random lifetimes, and a small UNet's training step run in exactly the planned memory.
#include <malloc.h>

#include <algorithm>
#include <cstdlib>

#include "checkpoint.h"
#include "graphs.h"
#include "train/program.h"

namespace lorafuse::test {
namespace {

// A graph of nothing but lifetimes: plan() looks at no op. Sizes from a few bytes to several kB, a few of them very large.
struct RandomGraph {
  Graph graph;
  std::vector<size_t> workspaces;

  explicit RandomGraph(uint64_t seed) {
    Random random(seed);
    const int64_t nodes = 1 + random.below(40), inputs = random.below(4), reach = 1 + random.below(20);
    auto size = [&] { return random.below(20) == 0 ? 1 + random.below(100000) : 1 + random.below(2000); };
    for (int64_t i = 0; i < inputs; i++) graph.value({"", {size()}, DType::f32, Storage::input});
    graph.value({"", {size()}, DType::f32, Storage::weight});
    for (int64_t i = 0; i < nodes; i++) {
      Node node{Add{}, {}, {}};
      const int64_t values = static_cast<int64_t>(graph.values.size());
      for (int64_t n = random.below(4); n > 0; n--)
        node.inputs.push_back(static_cast<ValueId>(values - 1 - random.below(std::min(values, reach))));
      for (int64_t n = 1 + random.below(3); n > 0; n--)
        node.outputs.push_back(graph.value({"", {size()}, DType::f32, Storage::activation}));
      graph.nodes.push_back(node);
      workspaces.push_back(random.below(3) == 0 ? static_cast<size_t>(size()) : 0);
    }
    const auto values = static_cast<int64_t>(graph.values.size());
    for (int64_t n = random.below(3); n > 0; n--) graph.results.push_back(static_cast<ValueId>(random.below(values)));
  }
};

struct Block {
  size_t offset, bytes;
  int64_t first, last;
};

// Who lives when, worked out by looking at every node for every value.
std::vector<Block> blocks_of(const Graph& graph, const std::vector<size_t>& workspaces, const Plan& p) {
  std::vector<Block> blocks;
  const auto nodes = static_cast<int64_t>(graph.nodes.size());
  for (size_t v = 0; v < graph.values.size(); v++) {
    const Value& value = graph.values[v];
    if (value.storage != Storage::activation && value.storage != Storage::input) continue;
    int64_t first = -1, last = -1;
    for (int64_t i = 0; i < nodes; i++)
      for (const auto* list : {&graph.nodes[i].inputs, &graph.nodes[i].outputs})
        if (std::find(list->begin(), list->end(), static_cast<ValueId>(v)) != list->end()) first = first < 0 ? i : first, last = i;
    if (std::find(graph.results.begin(), graph.results.end(), static_cast<ValueId>(v)) != graph.results.end()) last = nodes;
    if (last < 0) continue;
    blocks.push_back({p.offsets[v], value.bytes(), value.storage == Storage::input ? 0 : first, last});
  }
  for (int64_t i = 0; i < nodes; i++)
    if (workspaces[i]) blocks.push_back({p.workspaces[i], workspaces[i], i, i});
  return blocks;
}

size_t padded(size_t bytes) { return (bytes + 127) / 128 * 128; }

void expect_sound(const Graph& graph, const std::vector<size_t>& workspaces, const Plan& p) {
  const auto blocks = blocks_of(graph, workspaces, p);
  size_t end = 0, most = 0, all = 0;
  for (size_t a = 0; a < blocks.size(); a++) {
    EXPECT(blocks[a].offset % 128 == 0, "offset ", blocks[a].offset, " is not aligned");
    end = std::max(end, blocks[a].offset + padded(blocks[a].bytes));
    all += padded(blocks[a].bytes);
    for (size_t b = 0; b < a; b++) {
      const bool at_once = blocks[a].first <= blocks[b].last && blocks[b].first <= blocks[a].last;
      const bool apart = blocks[a].offset + blocks[a].bytes <= blocks[b].offset || blocks[b].offset + blocks[b].bytes <= blocks[a].offset;
      EXPECT(!at_once || apart, "blocks at ", blocks[a].offset, " and ", blocks[b].offset, " live at once and overlap");
    }
  }
  for (int64_t i = 0; i <= static_cast<int64_t>(graph.nodes.size()); i++) {
    size_t alive = 0;
    for (const Block& b : blocks) alive += b.first <= i && i <= b.last ? padded(b.bytes) : 0;
    most = std::max(most, alive);
  }
  EXPECT(p.arena_bytes == end, "the arena has ", p.arena_bytes, " bytes but the last block ends at ", end);
  EXPECT(p.lower_bound_bytes == most, "a lower bound of ", p.lower_bound_bytes, " bytes but ", most, " are alive at once");
  EXPECT(p.arena_bytes >= most && p.arena_bytes <= all, p.arena_bytes, " bytes, alive at once ", most, ", all together ", all);
}

struct Training {
  TemporaryFolder folder;
  Config config = small_unet();
  Weights weights{Weights::StorageTypes{}};
  Graph graph;
  Feed feed;

  Training() {
    const WeightFile file = write_random(folder.file("unet"), unet_layout(config), 3);
    weights.add(file.path, file.entries);
    const Graph forward = train_graph(weights, config, adapters_for(adaptable(weights, config), 2), {1, 6, 4}, 7);
    graph = fuse(gradients(forward, forward.results[0]));
    feed = train_feed(graph, weights, 5);
  }
};

}  // namespace

SUITE(planner) {
  test_case("blocks that live at once never overlap, over 3000 random graphs", [] {
    double sum = 0, most = 0;
    constexpr int kGraphs = 3000;
    for (uint64_t seed = 0; seed < kGraphs; seed++) {
      const RandomGraph r(seed);
      const Plan p = plan(r.graph, r.workspaces);
      try {
        expect_sound(r.graph, r.workspaces, p);
      } catch (const Failure& f) { throw Failure(text("seed ", seed, ": ", f.what())); }
      if (!p.lower_bound_bytes) continue;
      const double ratio = static_cast<double>(p.arena_bytes) / static_cast<double>(p.lower_bound_bytes);
      sum += ratio;
      most = std::max(most, ratio);
    }
    note(text("the arena is ", sum / kGraphs, " times the lower bound on average, ", most, " at most"));
  });
  test_case("values that never live at once share one place", [] {
    Graph graph;
    ValueId x = graph.value({"x", {1000}, DType::f32, Storage::input});
    for (int i = 0; i < 20; i++) x = graph.emit(Activation{Function::silu}, {x});
    graph.results = {x};
    const Plan p = plan(graph, std::vector<size_t>(20, 0));
    EXPECT(p.arena_bytes == 2 * padded(4000), p.arena_bytes);
  });
  test_case("a result that nobody reads keeps its memory to the end", [] {
    Graph graph;
    const ValueId x = graph.value({"x", {16}, DType::f32, Storage::input}), early = graph.emit(Activation{Function::silu}, {x});
    ValueId y = x;
    for (int i = 0; i < 10; i++) y = graph.emit(Activation{Function::gelu}, {y});
    graph.results = {early, y};
    const Plan p = plan(graph, std::vector<size_t>(graph.nodes.size(), 64));
    EXPECT(p.last_use[early] == static_cast<int32_t>(graph.nodes.size()), p.last_use[early]);
    expect_sound(graph, std::vector<size_t>(graph.nodes.size(), 64), p);
  });
  test_case("an empty graph needs no memory", [] {
    const Plan p = plan(Graph{}, {});
    EXPECT(p.arena_bytes == 0 && p.lower_bound_bytes == 0, p.arena_bytes);
  });
  test_case("a small UNet's training step gives the same bits when freed memory is poisoned", [] {
    Training t;
    for (const std::string& variant : variants()) {
      const Outcome kept = execute(backend(variant, 2), t.graph, t.feed), poisoned = execute(backend(variant, 2), t.graph, t.feed, true);
      EXPECT(same_bits(kept, poisoned), label(variant), ": something reads memory that the plan gave away");
      for (const auto& [v, data] : kept)
        for (float x : data) EXPECT(std::isfinite(x), label(variant), ": ", t.graph.values[v].name, " has ", x);
    }
  });
  test_case("a small UNet's training step gives the same bits for 1, 2 and 3 threads", [] {
    Training t;
    for (const std::string& variant : variants()) {
      const Outcome alone = execute(backend(variant, 1), t.graph, t.feed);
      for (int threads : {2, 3})
        EXPECT(same_bits(alone, execute(backend(variant, threads), t.graph, t.feed)), label(variant), ", ", threads, " threads");
    }
  });
#if !defined(__SANITIZE_ADDRESS__)  // whose allocator does not tell
  test_case("a program holds as much of the host's memory as it says", [] {
    const auto held = [] {
      const struct mallinfo2 all = mallinfo2();
      return all.uordblks + all.hblkhd;
    };
    Training t;
    Backend& cpu = backend(variants().back(), 1);
    double taken = 0, said = 0;
    for (int time = 0; time < 2; time++) {  // the first one fills the allocator's cache
      const size_t before = held();
      Program program(cpu, t.graph, [&](const Value& value) { return Tensor{nullptr, value.dtype, value.shape}; });
      program.place(&t);
      taken = static_cast<double>(held() - before), said = static_cast<double>(program.host_bytes());
    }
    EXPECT(std::abs(taken / said - 1) < 0.03, "it says ", said, " bytes and takes ", taken);
  });
#endif
  test_case("the planned bytes are the real peak: the last one is written and none beyond", [] {
    Training t;
    Backend& cpu = backend(variants().back(), 2);
    std::map<const Value*, std::vector<unsigned char>> memory;
    Program program(cpu, t.graph, [&](const Value& value) {
      auto& bytes = memory[&value];
      bytes.assign(value.bytes(), 0);
      return Tensor{bytes.data(), value.dtype, value.shape};
    });
    expect_sound(t.graph, std::vector<size_t>(t.graph.nodes.size(), 0), plan(t.graph, std::vector<size_t>(t.graph.nodes.size(), 0)));
    // Exactly as large as planned, so that ASan sees any access beyond; the sentinels of execute() see writes without it.
    std::unique_ptr<unsigned char, decltype(&std::free)> arena(static_cast<unsigned char*>(std::aligned_alloc(128, program.arena_bytes())),
                                                               &std::free);
    std::fill_n(arena.get(), program.arena_bytes(), 0xff);
    program.place(arena.get());
    for (const auto& [v, data] : t.feed) {
      const Value& value = program.graph().values[v];
      if (value.storage == Storage::input) program.write(value.name, data.data());
    }
    program.run();
    const unsigned char* last = arena.get() + program.arena_bytes() - 128;  // a block is padded to 128 bytes: its last may lie in here
    EXPECT(std::any_of(last, last + 128, [](unsigned char byte) { return byte != 0xff; }), "nothing was written in the last 128 bytes");
  });
}

}  // namespace lorafuse::test
