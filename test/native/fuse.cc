// Fused graphs compute what the unfused ones do, over a small UNet with adapters everywhere, and no Add stays that could be taken.
#include "checkpoint.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

struct SmallUNet {
  TemporaryFolder folder;
  Config config = small_unet();
  Weights weights{Weights::StorageTypes{}};
  Graph forward, backward;

  // convolutions: adapters on them, too.
  explicit SmallUNet(DType dtype = DType::f32, bool convolutions = false, bool recompute = false) {
    const WeightFile file = write_random(folder.file("unet"), unet_layout(config, dtype), 7);
    weights.add(file.path, file.entries);
    forward = train_graph(weights, config, adapters_for(adaptable(weights, config, convolutions), 3), {2, 4, 6}, 5);
    backward = gradients(forward, forward.results[0], recompute);
  }
};

constexpr FuseOptions kOptions[] = {{true, true},
                                    {true, false},
                                    {false, true},
                                    {false, false},
                                    {true, true, true},
                                    {true, true, false, true},
                                    {true, true, true, true},
                                    {true, true, true, true, true}};
std::string name_of(FuseOptions o) {
  const char *pairs = o.pairs ? "pairs" : "no pairs", *residuals = o.residual ? "residuals" : "no residuals";
  return text(pairs, " and ", residuals, o.lora ? " and adapters" : "", o.geglu ? " and GEGLUs" : "",
              o.weight_grads ? " and gradients of weights" : "");
}

// a·wᵀ for a fresh input and weight.
struct Products {
  Graph graph;
  ValueId x = graph.value({"x", {3, 4}, DType::f32, Storage::input});
  ValueId product(bool bias = false) {
    std::vector<ValueId> inputs = {x, graph.value({"w", {4, 4}, DType::f32, Storage::weight})};
    if (bias) inputs.push_back(graph.value({"b", {4}, DType::f32, Storage::weight}));
    return graph.emit(MatMul{{{}}, {.bias = bias}}, inputs);
  }
  ValueId weight(const Shape& shape) { return graph.value({"w", shape, DType::f32, Storage::weight}); }
  ValueId add(ValueId a, ValueId b) { return graph.emit(Add{}, {a, b}); }
};

std::vector<ValueId> gradients_of(const Graph& graph) {
  std::vector<ValueId> all;
  for (const Node& node : graph.nodes)
    if (std::holds_alternative<WeightGrad>(node.op)) all.insert(all.end(), node.outputs.begin(), node.outputs.end());
  return all;
}

void expect_nodes(const Graph& graph, size_t products, int adds) {
  EXPECT(count<MatMul>(graph) == static_cast<int>(products), count<MatMul>(graph), " products");
  EXPECT(count<Add>(graph) == adds, count<Add>(graph), " additions");
}

// A sum in another order: all that fusing may change in f64.
constexpr double kReordered = 1e-12;

// Numbers of a graph and what it makes of them in f64.
struct Trial {
  Feed feed;
  std::vector<Array<double>> expected;
};
std::vector<Trial> trials_of(const Graph& graph, const std::function<Feed(uint64_t seed)>& make_feed) {
  std::vector<Trial> trials;
  for (uint64_t seed = 0; seed < 12; seed++) {
    const Feed feed = make_feed(seed);
    trials.push_back({feed, interpret<double>(graph, feed)});
  }
  return trials;
}
std::vector<Trial> trials_of(SmallUNet& net, const Graph& graph) {
  return trials_of(graph, [&](uint64_t seed) { return train_feed(graph, net.weights, seed); });
}

// In f64 the same numbers before and after, and every backend as close to them as plain loops over the fused graph are.
void expect_same_meaning(const Graph& graph, FuseOptions options, const std::vector<Trial>& trials) {
  const Graph fused = fuse(graph, options);
  std::vector<GraphDeviation> actual(variants().size());
  GraphDeviation naive;
  for (const auto& [feed, expected] : trials) {
    const auto rewritten = interpret<double>(fused, feed);
    for (ValueId v : remaining(graph)) {
      Deviation d;
      d.add(rewritten[v], expected[v]);
      EXPECT(d.l2() <= kReordered, graph.values[v].name, " is ", d.l2(), " away from what it was");
    }
    naive.add(graph, outcome_of(fused, interpret<float>(fused, feed)), expected);
    for (size_t i = 0; i < actual.size(); i++) actual[i].add(fused, execute(backend(variants()[i], 2), fused, feed), expected);
  }
  for (const GraphDeviation& d : actual) expect_as_good(d, naive);
}
void expect_same_meaning(const Graph& graph, FuseOptions options = {}) {
  expect_same_meaning(graph, options, trials_of(graph, [&](uint64_t seed) { return random_feed(graph, seed); }));
}

// A small UNet with its trials. The cases of one follow each other, so only the latest one is kept.
struct Tried {
  DType dtype;
  bool convolutions, recompute;
  SmallUNet net{dtype, convolutions, recompute};
  std::vector<Trial> trials = trials_of(net, net.backward);
};
const Tried& tried(DType dtype, bool convolutions = false, bool recompute = false) {
  static std::unique_ptr<Tried> latest;
  if (!latest || latest->dtype != dtype || latest->convolutions != convolutions || latest->recompute != recompute)
    latest.reset(new Tried{dtype, convolutions, recompute});
  return *latest;
}

}  // namespace

SUITE(fuse) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (FuseOptions options : kOptions) {
      if (dtype != DType::f32 && !(options.pairs && options.residual)) continue;
      const char* type = lorafuse::name_of(dtype);
      test_case(text("a small UNet's loss and gradients stay when fused with ", name_of(options), ", weights in ", type), [=] {
        const Tried& t = tried(dtype);
        expect_same_meaning(t.net.backward, options, t.trials);
      });
    }
  for (const bool recompute : {false, true})
    for (FuseOptions options : {kOptions[0], kOptions[7]})
      test_case(
          text("the same with adapters on all convolutions", recompute ? ", blocks computed again" : "", ", fused with ", name_of(options)),
          [=] {
            const Tried& t = tried(DType::f32, true, recompute);
            expect_same_meaning(t.net.backward, options, t.trials);
          });
  test_case("fusing takes away what it says and nothing where both ways are off", [] {
    SmallUNet net;
    const int adds = count<Add>(net.backward);
    const size_t nodes = net.backward.nodes.size();
    auto left = [&](FuseOptions options) { return fuse(net.backward, options); };
    EXPECT(left({false, false}).nodes.size() == nodes, "a pass that is off changed the graph");
    const Graph pairs = left({true, false}), residuals = left({false, true}), both = left({true, true});
    // A pair swallows both products' nodes into the Add's, a residual one.
    auto gone = [&](const Graph& fused) { return static_cast<int>(nodes - fused.nodes.size()); };
    const int with_pairs = count<Add>(pairs), with_residuals = count<Add>(residuals), with_both = count<Add>(both);
    EXPECT(gone(pairs) == 2 * (adds - with_pairs), "pairs: ", gone(pairs), " nodes of ", nodes);
    EXPECT(gone(residuals) == adds - with_residuals, "residuals: ", gone(residuals), " nodes of ", nodes);
    note(text(adds, " additions; left with pairs ", with_pairs, ", with residuals ", with_residuals, ", with both ", with_both));
    const int adapters = static_cast<int>(adaptable(net.weights, net.config).size());
    EXPECT(adds - with_pairs >= adapters, "every adapter's addition must go");
    EXPECT(with_both < with_pairs && with_both < with_residuals, "both together must take more");
  });
  test_case("a UNet with adapters that only predicts keeps no addition at all", [] {
    SmallUNet net;
    EXPECT(count<Add>(net.forward) > 0, "nothing to fuse");
    EXPECT(count<Add>(fuse(net.forward)) == 0, count<Add>(fuse(net.forward)), " of ", count<Add>(net.forward), " additions are left");
  });
  test_case("every layer with an adapter becomes one node, q, k and v one together, and so do their gradients", [] {
    SmallUNet net;
    const Graph forward = fuse(net.forward, {.lora = true}), backward = fuse(net.backward, {.lora = true});
    size_t layers = 0, joined = 0, summed = 0;
    for (const Node& node : backward.nodes)
      if (const auto* op = std::get_if<LoraMatMul>(&node.op)) layers += op->scales.size(), joined += op->scales.size() == 3;
      else if (const auto* grad = std::get_if<LoraMatMulGrad>(&node.op)) summed += grad->scales.size() == 3;
    const size_t adapters = adaptable(net.weights, net.config).size();
    EXPECT(layers == adapters, layers, " of ", adapters, " layers");
    EXPECT(joined > 0 && summed > 0, joined, " nodes of q, k, v; ", summed, " of their gradients");
    EXPECT(count<LoraMatMul>(forward) == count<LoraMatMul>(fuse(forward, {.lora = true})), "a second pass changed the graph");
    note(text(count<LoraMatMul>(backward), " + ", count<LoraMatMulGrad>(backward), " nodes for ", adapters,
              " layers; products left: ", count<MatMul>(backward)));
  });
  test_case("every GEGLU and its gradient ends a product, with adapters everywhere and on attention alone", [] {
    SmallUNet net;
    const int forward = count<Geglu>(net.forward), backward = count<GegluGrad>(net.backward);
    EXPECT(forward > 0 && count<Geglu>(net.backward) == forward && backward == forward, forward, " GEGLUs, ", backward, " gradients");
    auto gates = [](const Graph& graph, Gate gate) {
      int found = 0;
      for (const Node& node : graph.nodes)
        std::visit(
            [&](const auto& op) {
              if constexpr (requires { op.epilogue; }) found += op.epilogue.gate == gate;
            },
            node.op);
      return found;
    };
    auto expect_none = [&](const Graph& graph, bool trained) {
      for (const Graph& fused : {fuse(graph, {.geglu = true}), fuse(graph, {.lora = true, .geglu = true})}) {
        const int left = count<Geglu>(fused) + count<GegluGrad>(fused);
        EXPECT(left == 0, left, " GEGLUs and gradients are left");
        EXPECT(gates(fused, Gate::geglu) == forward, gates(fused, Gate::geglu), " GEGLUs");
        EXPECT(gates(fused, Gate::geglu_grad) == (trained ? count<GegluGrad>(graph) : 0), gates(fused, Gate::geglu_grad), " gradients");
      }
    };
    expect_none(net.forward, false);
    expect_none(net.backward, true);
    auto layers = adaptable(net.weights, net.config);
    std::erase_if(layers, [](const Layer& layer) { return layer.path.find("attn") == std::string::npos; });
    const Graph attention = train_graph(net.weights, net.config, adapters_for(layers, 3), {2, 4, 6}, 5);
    const Graph trained = gradients(attention, attention.results[0]);
    EXPECT(count<GegluGrad>(trained) > 0, "no gradient passes a feed-forward");
    expect_none(trained, true);
    expect_same_meaning(trained, {.lora = true, .geglu = true}, trials_of(net, trained));
  });
  test_case("a GEGLU of what is not a product's y, or of several, stays", [] {
    Products p;
    const ValueId y = p.graph.emit(MatMul{{{}}, {.residual = true}}, {p.x, p.weight({4, 4}), p.x});  // with a residual
    p.graph.results = {p.graph.emit(Geglu{}, {p.x}), p.graph.emit(Geglu{}, {y})};
    EXPECT(count<Geglu>(fuse(p.graph, {.geglu = true})) == 2, "a GEGLU went away");
    expect_same_meaning(p.graph, {.geglu = true});
  });
  test_case("a gradient of a GEGLU stays where something else reads dy, or its product has a bias", [] {
    Products p;
    const ValueId x = p.graph.value({"x8", {3, 8}, DType::f32, Storage::input}), dy = p.product();
    p.graph.results = {p.graph.emit(GegluGrad{}, {x, dy}), p.add(dy, dy), p.graph.emit(GegluGrad{}, {x, p.product(true)})};
    EXPECT(count<GegluGrad>(fuse(p.graph, {.geglu = true})) == 2, "a gradient went away");
    expect_same_meaning(p.graph, {.geglu = true});
  });
  test_case("a product ends in one GEGLU: others that read its y stay", [] {
    Products p;
    const ValueId y = p.product(true);
    p.graph.results = {p.graph.emit(Geglu{}, {y}), p.graph.emit(Activation{Function::silu}, {y}), p.graph.emit(Geglu{}, {y})};
    const Graph fused = fuse(p.graph, {.geglu = true});
    EXPECT(count<Geglu>(fused) == 1 && fused.nodes.size() == 3, count<Geglu>(fused), " are left of ", fused.nodes.size(), " nodes");
    expect_same_meaning(p.graph, {.geglu = true});
  });
  test_case("gradients of weights become a few nodes, each gradient once", [] {
    SmallUNet net;
    const Graph apart = fuse(net.backward, {.lora = true, .geglu = true}),
                fused = fuse(net.backward, {.lora = true, .geglu = true, .weight_grads = true});
    std::vector<ValueId> before = gradients_of(apart), after = gradients_of(fused);
    EXPECT(count<WeightGrad>(fused) * 8 < count<WeightGrad>(apart), count<WeightGrad>(fused), " nodes of ", count<WeightGrad>(apart));
    std::sort(before.begin(), before.end()), std::sort(after.begin(), after.end());
    EXPECT(before == after, "other gradients");
  });
  test_case("gradients of weights stay apart where both add to one, or much memory would wait", [] {
    Products p;
    const ValueId x = p.graph.value({"x", {1 << 12, 4}, DType::f32, Storage::input}),
                  wide = p.graph.value({"wide", {1 << 12, 1100}, DType::f32, Storage::input});
    const ValueId a = p.graph.value({"a", {4, 4}, DType::f32, Storage::gradient}),
                  b = p.graph.value({"b", {1100, 4}, DType::f32, Storage::gradient});
    p.graph.results = {p.product()};
    p.graph.nodes.push_back({WeightGrad{}, {x, x}, {a}});
    p.graph.nodes.push_back({WeightGrad{{0.5f}}, {x, x}, {a}});
    p.graph.nodes.push_back({WeightGrad{{2}}, {wide, x}, {b}});  // 17 MiB
    const ValueId c = p.graph.value({"c", {4, 4}, DType::f32, Storage::gradient});
    p.graph.nodes.push_back({WeightGrad{{3}}, {x, x}, {c}});
    const Graph fused = fuse_weight_grads(p.graph);
    EXPECT(count<WeightGrad>(fused) == 3, count<WeightGrad>(fused), " nodes");
    EXPECT(fused.nodes[1].outputs == std::vector{a} && fused.nodes[2].outputs == std::vector({a, b}),
           "others than the second and third joined");
  });
  test_case("two products that are added become one with both operand pairs", [] {
    Products p;
    p.graph.results = {p.add(p.product(true), p.product())};
    expect_nodes(fuse(p.graph), 1, 0);
    expect_same_meaning(p.graph);
  });
  test_case("two products with a bias each become one with the other as its residual", [] {
    Products p;
    p.graph.results = {p.add(p.product(true), p.product(true))};
    expect_nodes(fuse(p.graph), 2, 0);
    expect_same_meaning(p.graph);
  });
  test_case("a convolution, and a transposed one, with a bias takes what is added as its residual", [] {
    Products p;
    const ValueId x = p.graph.value({"image", {2, 6, 4, 3}, DType::f32, Storage::input});
    const ValueId bias = p.graph.value({"b", {3}, DType::f32, Storage::weight});
    const ValueId small = p.graph.emit(Conv2d{4, 2, 1, 1, {.bias = true}}, {x, p.weight({16, 3, 3}), bias});
    const ValueId other = p.graph.value({"other", p.graph.shape(small), DType::f32, Storage::input});
    const ValueId large =
        p.graph.emit(ConvTranspose2d{4, 2, 1, 1, 6, 4, {.bias = true}}, {p.add(small, other), p.weight({16, 3, 3}), bias});
    p.graph.results = {p.add(x, large)};
    EXPECT(fuse(p.graph).nodes.size() == 2, fuse(p.graph).nodes.size(), " nodes are left");
    expect_same_meaning(p.graph);
  });
  test_case("a product that something else reads stays", [] {
    Products p;
    const ValueId a = p.product();
    p.graph.results = {p.add(a, p.x), p.graph.emit(Activation{Function::silu}, {a})};
    expect_nodes(fuse(p.graph), 1, 1);
    expect_same_meaning(p.graph);
  });
  test_case("a product that is a result stays", [] {
    Products p;
    const ValueId a = p.product();
    p.graph.results = {p.add(a, p.x), a};
    expect_nodes(fuse(p.graph), 1, 1);
    expect_same_meaning(p.graph);
  });
  test_case("a product that is added to itself stays", [] {
    Products p;
    const ValueId a = p.product();
    p.graph.results = {p.add(a, a)};
    expect_nodes(fuse(p.graph), 1, 1);
    expect_same_meaning(p.graph);
  });
  test_case("a chain of additions ends in one product", [] {
    Products p;
    p.graph.results = {p.add(p.add(p.add(p.product(true), p.product()), p.product()), p.x)};
    expect_nodes(fuse(p.graph), 1, 0);
    expect_same_meaning(p.graph);
    expect_same_meaning(p.graph, {true, false});
    expect_same_meaning(p.graph, {false, true});
  });
}

}  // namespace lorafuse::test
