// Blocks that are computed again for their gradients: the same bits, less memory, and of a block only what others read is kept.
#include <set>

#include "checkpoint.h"
#include "graph/cost.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

// A small UNet whose transformers have several layers, each a block within theirs.
struct Training {
  TemporaryFolder folder;
  Config config = small_unet({3, 2});
  Weights weights{Weights::StorageTypes{}};
  Graph forward, kept, again, parts;

  explicit Training(bool convolutions, LatentShape shape = {2, 4, 6}) {
    const WeightFile file = write_random(folder.file("unet"), unet_layout(config), 7);
    weights.add(file.path, file.entries);
    forward = train_graph(weights, config, adapters_for(adaptable(weights, config, convolutions), 3), shape, 5);
    kept = gradients(forward, forward.results[0]);
    again = gradients(forward, forward.results[0], true);
    parts = gradients(forward, forward.results[0], Recompute(region_names(forward, &Node::part)));
  }
};

// Results and gradients in the graph's order, which is the same whatever is computed again.
std::vector<std::vector<float>> in_order(const Outcome& outcome) {
  std::vector<std::vector<float>> all;
  for (const auto& [v, data] : outcome) all.push_back(data);
  return all;
}

size_t arena(const Graph& graph, Backend& backend) {
  std::vector<size_t> workspaces;
  for (const Node& node : graph.nodes) workspaces.push_back(backend.workspace_bytes(graph, node));
  return plan(graph, workspaces).arena_bytes;
}

// The position of the loss: forward before it, backward behind it.
size_t end_of_forward(const Graph& graph) {
  for (size_t i = 0; i < graph.nodes.size(); i++)
    if (std::holds_alternative<MseLoss>(graph.nodes[i].op)) return i;
  throw Failure("no loss");
}

// Σ_b weights_b · loss_b
double objective(const Graph& forward, std::vector<Array<double>> values) {
  const ValueId weights = forward.nodes.back().inputs[2];
  const Array<double> factors = values[weights], losses = interpret(forward, std::move(values))[forward.results[0]];
  double sum = 0;
  for (int64_t b = 0; b < losses.shape.elements(); b++) sum += factors[b] * losses[b];
  return sum;
}

// The gradients of all adapters at once, along a random direction, against five points of the forward pass.
void expect_derivative(const Graph& forward, const Graph& backward, const Feed& feed) {
  constexpr double h = 1e-3;
  std::vector<Array<double>> values(forward.values.size());
  std::map<std::string, std::vector<float>> direction;
  Random random(11);
  for (const auto& [v, data] : feed) {
    if (v >= static_cast<ValueId>(values.size())) continue;
    values[v] = Array<double>(forward.shape(v), data);
    if (forward.values[v].storage == Storage::parameter)
      direction[forward.values[v].name] = random.normals(forward.shape(v).elements(), 0.1f);
  }
  const auto at = [&](double step) {
    auto moved = values;
    for (size_t v = 0; v < moved.size(); v++)
      if (forward.values[v].storage == Storage::parameter)
        for (size_t i = 0; i < moved[v].data.size(); i++) moved[v].data[i] += step * direction.at(forward.values[v].name)[i];
    return objective(forward, std::move(moved));
  };
  const double expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  const auto derived = interpret<double>(backward, feed);
  double sum = 0;
  size_t found = 0;
  for (size_t g = 0; g < backward.values.size(); g++) {
    if (backward.values[g].storage != Storage::gradient) continue;
    found++;
    const auto& along = direction.at(backward.values[g].name);
    for (size_t i = 0; i < along.size(); i++) sum += (derived[g].data[i] - feed.at(static_cast<ValueId>(g))[i]) * along[i];
  }
  EXPECT(found == direction.size(), found, " gradients of ", direction.size(), " parameters");
  EXPECT(std::fabs(sum - expected) <= 1e-7 * std::fabs(expected), "derived ", sum, ", differences give ", expected);
}

}  // namespace

SUITE(recomputation) {
  for (const bool convolutions : {false, true}) {
    const std::string where = convolutions ? "adapters on all layers" : "adapters in the transformers";
    test_case("gradients of a small UNet are those of differences, computed again or not, " + where, [=] {
      Training t(convolutions, {1, 4, 4});
      for (const Graph* backward : {&t.kept, &t.again, &t.parts})
        expect_derivative(t.forward, *backward, train_feed(*backward, t.weights, 3));
    });
    for (const std::string& variant : variants())
      test_case("losses and gradients have the same bits as without, " + where + ", " + label(variant), [=] {
        Training t(convolutions);
        for (const bool fused : {false, true}) {
          const auto outcome = [&](const Graph& graph) {
            const Graph run = fused ? fuse(graph) : graph;
            return in_order(execute(backend(variant, 2), run, train_feed(run, t.weights, 5), true));
          };
          const auto kept = outcome(t.kept);
          EXPECT(kept == outcome(t.again) && kept == outcome(t.parts), "other bits", fused ? ", fused" : "");
        }
      });
    test_case("nothing that a block makes for itself is kept for its gradients, but for the last one, " + where, [=] {
      const Training t(convolutions);
      std::map<ValueId, std::string> blocks;
      std::set<std::string> seen;
      for (const Node& node : t.forward.nodes)
        for (ValueId v : node.outputs) blocks[v] = node.block;
      for (size_t i = end_of_forward(t.again); i < t.again.nodes.size(); i++) {
        const Node& node = t.again.nodes[i];
        if (node.block.empty() || node.block.starts_with("up_blocks.1.attentions.1")) continue;  // the last one
        seen.insert(node.block);
        for (ValueId v : node.inputs)
          EXPECT(!blocks.contains(v) || blocks.at(v) != node.block, node.layer, " reads ", t.again.values[v].name, " of its own block");
      }
      EXPECT(seen.size() > 10, seen.size(), " blocks");
    });
  }
  test_case("only what the gradients of a block need is computed again, and nothing of the last one", [] {
    Graph g;
    const auto parameter = [&](Shape shape) {
      return g.value({text("p", g.values.size()), std::move(shape), DType::f32, Storage::parameter});
    };
    ValueId x = g.value({"x", {3, 4}, DType::f32, Storage::input});
    for (const char* block : {"a", "b", "c.d", "c", ""}) {
      g.block = block;
      x = g.emit(MatMul{}, {x, parameter({4, 4})});
      x = g.emit(Activation{Function::silu}, {x});
      x = g.emit(MatMul{}, {x, parameter({4, 4})});
    }
    const ValueId target = g.value({"target", {3, 4}, DType::f32, Storage::input}),
                  factors = g.value({"w", {3}, DType::f32, Storage::input});
    g.results = {g.emit(MseLoss{}, {x, target, factors})};
    const Graph kept = gradients(g, g.results[0]), again = gradients(g, g.results[0], true);
    // Of a and b the first product and the activation; the second product is read by the next block, and by none. c is the last one.
    EXPECT(count<Activation>(again) == count<Activation>(kept) + 2, count<Activation>(again), " activations");
    EXPECT(count<MatMul>(again) == count<MatMul>(kept) + 2, count<MatMul>(again), " products");
    EXPECT(again.nodes.size() == kept.nodes.size() + 4, again.nodes.size(), " nodes");
  });
  test_case("a part that is computed again keeps nothing but what it reads, and a block that is takes its parts along", [] {
    const Training t(false);
    const std::string part = "down_blocks.0.attentions.0.transformer_blocks.0.ff", block = part.substr(0, part.size() - 3);
    const auto reads = [&](const std::set<std::string>& chosen) {  // the backward pass, of what the part makes
      const Graph step = gradients(t.forward, t.forward.results[0], Recompute(chosen));
      std::set<ValueId> made, kept;
      for (size_t i = 0; i < step.nodes.size(); i++)
        for (ValueId v : i < t.forward.nodes.size() ? step.nodes[i].outputs : step.nodes[i].inputs)
          if (i >= t.forward.nodes.size() || step.nodes[i].part == part) (i < t.forward.nodes.size() ? made : kept).insert(v);
      std::erase_if(made, [&](ValueId v) { return !kept.contains(v); });
      return made.size();
    };
    EXPECT(reads({}) >= 4, reads({}), " values are kept");
    EXPECT(reads({part}) <= 1, reads({part}), " values are kept");
    EXPECT(gradients(t.forward, t.forward.results[0], Recompute({part, block})).nodes.size() ==
               gradients(t.forward, t.forward.results[0], Recompute({block})).nodes.size(),
           "another graph");
  });
  test_case("the cheapest recomputation that fits is chosen, from none to all", [] {
    const Training t(true, {1, 16, 16});
    Backend& cpu = backend(variants().back(), 1);
    const auto bytes = [&](const Graph& step) { return arena(fuse(step), cpu); };
    const auto flops = [&](const Recompute& r) {
      double sum = 0;
      const Graph step = gradients(t.forward, t.forward.results[0], r);
      for (const Node& node : step.nodes) sum += cost_of(step, node).flops;
      return sum;
    };
    const size_t kept = bytes(t.kept), least = bytes(t.again);
    double last = 0;
    for (int eighths = 8; eighths >= 0; eighths--) {
      const size_t budget = least + (kept - least) * eighths / 8;
      const auto chosen = cheapest_recompute(t.forward, t.forward.results[0], [&](const Graph& step) { return bytes(step) <= budget; });
      EXPECT(chosen, "nothing fits ", budget);
      EXPECT(bytes(gradients(t.forward, t.forward.results[0], *chosen)) <= budget, "more than ", budget);
      EXPECT(flops(*chosen) >= last && flops(*chosen) <= flops(true), "no dearer than all, nor cheaper than in more memory");
      last = flops(*chosen);
      if (eighths == 8) EXPECT(!chosen->all && chosen->names.empty(), chosen->names.size(), " blocks where none are needed");
      if (eighths == 7)
        EXPECT(flops(*chosen) - flops(false) < (flops(true) - flops(false)) / 4, flops(*chosen), " operations for an eighth");
    }
    EXPECT(!cheapest_recompute(t.forward, t.forward.results[0], [&](const Graph& step) { return bytes(step) < least / 2; }),
           "half of it fits");
  });
  for (const bool xl : {false, true})
    for (const bool all : {false, true})
      test_case(text(xl ? "SDXL at 1024" : "SD1.5 at 512", " pixels plans for less than half, ",
                     all ? "adapters in the transformers" : "on attention"),
                [=] {
                  TemporaryFolder folder;
                  const Config config = xl ? sdxl_unet() : sd15_unet();
                  const Layout layout = unet_layout(config, DType::f16);
                  Weights weights{Weights::StorageTypes{}};
                  weights.add(write_sparse(folder.file("unet"), layout).path, layout.entries);
                  auto layers = adaptable(weights, config);
                  if (!all) std::erase_if(layers, [](const Layer& l) { return l.path.find(".attn") == std::string::npos; });
                  const int64_t size = xl ? 128 : 64;
                  const Graph forward = train_graph(weights, config, adapters_for(layers, 16), {1, size, size}, 77);
                  const auto bytes = [&](bool recompute) {
                    return arena(fuse(gradients(forward, forward.results[0], recompute)), backend(variants().back(), 2));
                  };
                  const size_t kept = bytes(false), again = bytes(true);
                  note(text(kept >> 20, " MiB, computed again ", again >> 20));
                  EXPECT(2 * again < kept, again, " of ", kept);
                });
}

}  // namespace lorafuse::test
