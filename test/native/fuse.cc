// Fused graphs compute what the unfused ones do, over a small UNet with adapters everywhere, and no Add stays that could be taken.
#include "checkpoint.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

struct SmallUNet {
  TemporaryFolder folder;
  UNetConfig config = small_unet();
  Weights weights{Weights::Held{}};
  Graph forward, backward;

  explicit SmallUNet(DType dtype = DType::f32) {
    const WeightFile file = write_random(folder.file("unet"), unet_layout(config, dtype), 7);
    weights.add(file.path, file.entries);
    forward = train_graph(weights, config, adapters_for(adaptable(weights, config), 3), {2, 4, 6}, 5);
    backward = gradients(forward, forward.results[0]);
  }
};

constexpr FuseOptions kOptions[] = {{true, true}, {true, false}, {false, true}, {false, false}, {true, true, true}};
std::string name_of(FuseOptions o) { return text(o.pairs ? "pairs" : "no pairs", " and ", o.residual ? "residuals" : "no residuals", o.lora ? " and adapters" : ""); }

// a·wᵀ for a fresh input and weight.
struct Products {
  Graph graph;
  ValueId x = graph.value({"x", {3, 4}, DType::f32, Storage::input});
  ValueId product(bool bias = false) {
    std::vector<ValueId> inputs = {x, graph.value({"w", {4, 4}, DType::f32, Storage::weight})};
    if (bias) inputs.push_back(graph.value({"b", {4}, DType::f32, Storage::weight}));
    return graph.emit(MatMul{{{}}, bias}, inputs);
  }
  ValueId add(ValueId a, ValueId b) { return graph.emit(Add{}, {a, b}); }
};

void expect_nodes(const Graph& graph, size_t products, int adds) {
  EXPECT(count<MatMul>(graph) == static_cast<int>(products), count<MatMul>(graph), " products");
  EXPECT(count<Add>(graph) == adds, count<Add>(graph), " additions");
}

// A sum in another order: all that fusing may change in f64.
constexpr double kReordered = 1e-12;

// In f64 the same numbers before and after, and every backend as close to them as plain loops over the fused graph are.
void expect_same_meaning(const Graph& graph, FuseOptions options = {}, const std::function<Feed(uint64_t seed)>& make_feed = nullptr) {
  const Graph fused = fuse(graph, options);
  std::vector<GraphDeviation> actual(variants().size());
  GraphDeviation naive;
  for (uint64_t seed = 0; seed < 12; seed++) {
    const Feed feed = make_feed ? make_feed(seed) : random_feed(graph, seed);
    const auto expected = interpret<double>(graph, feed), rewritten = interpret<double>(fused, feed);
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

}  // namespace

SUITE(fuse) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (FuseOptions options : kOptions) {
      if (dtype != DType::f32 && !(options.pairs && options.residual)) continue;
      const char* type = lorafuse::name_of(dtype);
      test_case(text("a small UNet's loss and gradients stay when fused with ", name_of(options), ", weights in ", type), [=] {
        SmallUNet net(dtype);
        expect_same_meaning(net.backward, options, [&](uint64_t seed) { return train_feed(net.backward, net.weights, seed); });
      });
    }
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
    size_t terms = 0, joined = 0, summed = 0;
    for (const Node& node : backward.nodes)
      if (const auto* op = std::get_if<LoraMatMul>(&node.op)) {
        if (!op->terms[0].transposed) terms += op->terms.size(), joined += op->terms.size() == 3;
        else summed += op->sum && op->terms.size() == 3;
      }
    const size_t adapters = adaptable(net.weights, net.config).size();
    EXPECT(terms == adapters, terms, " of ", adapters, " layers");
    EXPECT(joined > 0 && summed > 0, joined, " nodes of q, k, v; ", summed, " of their gradients");
    EXPECT(count<LoraMatMul>(forward) == count<LoraMatMul>(fuse(forward, {.lora = true})), "a second pass changed the graph");
    note(text(count<LoraMatMul>(backward), " nodes for ", adapters, " layers; products left: ", count<MatMul>(backward)));
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
