// The networks against the published sizes and the libraries' tensor names; no weights are needed for that.
#include "checkpoint.h"
#include "golden.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

// Every tensor of the file is one value of one of the graphs, and none is asked for that the file lacks.
void expect_all_used(const std::vector<const Graph*>& graphs, const Layout& layout) {
  std::map<std::string, int> uses;
  for (const WeightEntry& e : layout.entries) uses[e.name] = 0;
  for (const Graph* graph : graphs) {
    std::map<ValueId, int> readers;
    for (const Node& node : graph->nodes)
      for (ValueId v : node.inputs) readers[v]++;
    for (size_t v = 0; v < graph->values.size(); v++)
      if (graph->values[v].storage == Storage::weight) {
        uses.at(graph->values[v].name)++;
        EXPECT(readers[static_cast<ValueId>(v)] > 0, graph->values[v].name, " is read by no node");
      }
  }
  for (const auto& [name, n] : uses) EXPECT(n == 1, name, " is used ", n, " times");
}

// A UNet of real size over a file of zeros.
struct Hollow {
  TemporaryFolder folder;
  Config config;
  Layout layout = unet_layout(config, DType::f16);
  Weights weights{Weights::StorageTypes{}};
  explicit Hollow(Config c) : config(std::move(c)) { weights.add(write_sparse(folder.file("unet"), layout).path, layout.entries); }
};
struct Sd15 : Hollow {
  Sd15() : Hollow(sd15_unet()) {}
};

// Names and shapes are those that diffusers' module tree has (scripts/goldens/names.py).
void expect_names(const Layout& layout, const std::string& file) {
  const std::string path = fixtures() + "/golden-names/" + file;
  const Json names = parse_json(read_file(path), path)["unet"];
  const size_t tensors = names.members().size();
  EXPECT(tensors == layout.entries.size(), path, " has ", tensors, " tensors, the layout ", layout.entries.size());
  for (const WeightEntry& e : layout.entries) {
    const Shape expected(names[e.name].integers());
    EXPECT(e.shape == expected, e.name, " is ", expected, " in diffusers but ", e.shape, " here");
  }
}

// Layers outside of the attention blocks, and what a unit of rank adds at their 3×3 kernels and at the others (kohya-ss/sd-scripts' LoCon).
void expect_convolutions(const Hollow& model, size_t modules, int64_t at_kernels, int64_t at_others) {
  int64_t kernels = 0, others = 0;
  auto layers = adaptable(model.weights, model.config, true);
  std::erase_if(layers, [](const Layer& l) { return l.path.find(".attentions.") != std::string::npos; });
  for (const Layer& l : layers) {
    const int64_t taps = int64_t{l.window.kernel} * l.window.kernel;
    (taps > 1 ? kernels : others) += taps * l.in_features + l.out_features;
    const bool halves = l.path.find("downsamplers") != std::string::npos, doubles = l.path.find("upsamplers") != std::string::npos;
    EXPECT(l.window.stride == (halves ? 2 : 1) && l.doubles == doubles, l.path, " has stride ", l.window.stride);
    EXPECT(taps == (l.path.find("time_emb_proj") + 1 || l.path.find("conv_shortcut") + 1 ? 1 : 9), l.path, " has ", taps, " taps");
    EXPECT(l.is_conv == (l.path.find("time_emb_proj") == std::string::npos), l.path, " is of another kind");
  }
  EXPECT(layers.size() == modules && kernels == at_kernels && others == at_others, layers.size(), " layers, ", kernels, " and ", others);
}

double gib(size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

SUITE(model) {
  test_case("SD1.5's UNet has 859520964 parameters and uses each tensor of its file once", [] {
    Sd15 sd;
    EXPECT(sd.layout.parameters() == 859520964, sd.layout.parameters());
    EXPECT(sd.layout.entries.size() == 686, sd.layout.entries.size());
    expect_names(sd.layout, "sd15.json");
    const Graph graph = train_graph(sd.weights, sd.config, kNoAdapters, {1, 64, 64}, 77);
    expect_all_used({&graph}, sd.layout);
  });
  test_case("SDXL's UNet has diffusers' 1680 tensors of 2567463684 parameters and uses each once", [] {
    Hollow xl(sdxl_unet());
    EXPECT(xl.layout.parameters() == 2567463684, xl.layout.parameters());
    EXPECT(xl.layout.entries.size() == 1680, xl.layout.entries.size());
    expect_names(xl.layout, "sdxl.json");
    const Graph graph = train_graph(xl.weights, xl.config, kNoAdapters, {1, 128, 128}, 77);
    expect_all_used({&graph}, xl.layout);
  });
  struct Kin {
    const char* name;
    Config (*config)();
    int64_t parameters;
    size_t tensors, layers;
  };
  // Counted in diffusers' module trees. segmind/SSD-1B, segmind/Segmind-Vega: irregular blocks, one resnet in the middle.
  for (const Kin& kin : {Kin{"SSD-1B", ssd1b_unet, 1331334404, 944, 360}, Kin{"Vega", vega_unet, 745225604, 564, 170},
                         Kin{"SDXL without a middle block", sdxl_unet_without_middle, 2154346244, 1454, 620}})
    test_case(text(kin.name, ": the UNet has ", kin.tensors, " tensors of ", kin.parameters, " parameters and uses each once"), [=] {
      Hollow small(kin.config());
      EXPECT(small.layout.parameters() == kin.parameters, small.layout.parameters());
      EXPECT(small.layout.entries.size() == kin.tensors, small.layout.entries.size());
      const Graph graph = train_graph(small.weights, small.config, kNoAdapters, {1, 32, 32}, 77);
      expect_all_used({&graph}, small.layout);
      const size_t layers = adaptable(small.weights, small.config).size();
      EXPECT(layers == kin.layers, layers);
    });
  // kohya-ss/sd-scripts' counts; 2659840 parameters per unit of rank, 1451520 of them in attention.
  test_case("SDXL's attention blocks have 722 layers that can carry an adapter, 560 of them q, k, v and out", [] {
    Hollow xl(sdxl_unet());
    int64_t all = 0, attention = 0;
    const auto layers = adaptable(xl.weights, xl.config);
    EXPECT(layers.size() == 722, layers.size());
    for (const Layer& l : layers) {
      EXPECT(!l.is_conv, l.path, " is a convolution");
      all += l.in_features + l.out_features;
      if (l.path.find(".attn") != std::string::npos) attention += l.in_features + l.out_features;
    }
    EXPECT(all == 2659840 && attention == 1451520, all, " and ", attention);
    expect_convolutions(xl, 66, 355840, 58560);
  });
  test_case("inputs of another shape than the UNet's config says are refused by name", [] {
    for (const bool xl : {true, false}) {
      Hollow model(xl ? sdxl_unet() : sd15_unet());
      const Shapes right = prediction_shapes(model.config, {1, 8, 8}, 7);
      std::map<std::string, Shape> wrong = {{"latents", {1, 8, 8, 3}}, {"timesteps", {2}}, {"context", {1, 7, 700}}};
      if (xl) wrong["time_ids"] = {1, 5}, wrong["pooled"] = {1, 1281};
      for (const auto& [name, shape] : wrong) {
        Shapes shapes = right;
        shapes[name] = shape;
        Builder b = builder(model.config, model.weights, kNoAdapters, DType::f32, shapes);
        const std::string message = expect_error("SHAPE_MISMATCH", [&] { find_function("unet", "predict").build(b, {}); });
        EXPECT(message.find(name) != std::string::npos && message.find(shape.str()) != std::string::npos, message);
      }
    }
  });
  test_case("SD1.5's text encoder has 123060480 parameters and uses each tensor of its file once", [] {
    TemporaryFolder folder;
    const Config config = sd15_text_encoder();
    const Layout layout = text_encoder_layout(config);
    EXPECT(layout.parameters() == 123060480, layout.parameters());
    Weights weights(Weights::StorageTypes{});
    weights.add(write_sparse(folder.file("text"), layout).path, layout.entries);
    Builder b = builder(config, weights, kNoAdapters, DType::f32, {{"ids", {2, 77}}});
    const ValueId states = find_function("clip", "encode").build(b, {})[0];
    EXPECT(b.shape(states) == Shape({2, 77, 768}), b.shape(states));
    expect_all_used({&b.graph}, layout);
  });
  test_case("SD1.5's VAE has 83653863 parameters and encoder and decoder share out the tensors of its file", [] {
    TemporaryFolder folder;
    const Config config = sd15_vae();
    const Layout layout = vae_layout(config);
    EXPECT(layout.parameters() == 83653863, layout.parameters());
    Weights weights(Weights::StorageTypes{});
    weights.add(write_sparse(folder.file("vae"), layout).path, layout.entries);
    Builder encoder = builder(config, weights, kNoAdapters, DType::f32, {{"pixels", {1, 64, 128, 3}}});
    Builder decoder = builder(config, weights, kNoAdapters, DType::f32, {{"latents", {1, 8, 16, 4}}});
    const ValueId moments = find_function("vae", "encode").build(encoder, {})[0];
    const ValueId pixels = find_function("vae", "decode").build(decoder, {})[0];
    EXPECT(encoder.shape(moments) == Shape({1, 8, 16, 8}), encoder.shape(moments));
    EXPECT(decoder.shape(pixels) == Shape({1, 64, 128, 3}), decoder.shape(pixels));
    expect_all_used({&encoder.graph, &decoder.graph}, layout);
  });
  test_case("SD1.5's attention blocks have 192 layers that can carry an adapter", [] {
    Sd15 sd;
    const auto layers = adaptable(sd.weights, sd.config);
    EXPECT(layers.size() == 192, layers.size());
    int convolutions = 0;
    for (const Layer& l : layers) convolutions += l.is_conv;
    EXPECT(convolutions == 32, convolutions, " are 1x1 convolutions");
    expect_convolutions(sd, 86, 544000, 82880);
  });
  for (const bool all : {true, false})
    test_case(text("SD1.5's training step at 512 pixels, rank 16, ", all ? "all 192 layers" : "q, k, v and out alone",
                   ": the arena is within 2 % of what is alive at once"),
              [=] {
                Sd15 sd;
                auto layers = adaptable(sd.weights, sd.config);
                if (!all) std::erase_if(layers, [](const Layer& l) { return l.path.find(".attn") == std::string::npos; });
                const Graph forward = train_graph(sd.weights, sd.config, adapters_for(layers, 16), {1, 64, 64}, 77);
                const Graph graph = fuse(gradients(forward, forward.results[0]));
                std::vector<size_t> workspaces;
                for (const Node& node : graph.nodes) workspaces.push_back(backend(variants().back(), 2).workspace_bytes(graph, node));
                const Plan with = plan(graph, workspaces), p = plan(graph, std::vector<size_t>(graph.nodes.size(), 0));
                const double above = static_cast<double>(with.arena_bytes) / static_cast<double>(with.lower_bound_bytes) - 1;
                note(text(graph.nodes.size(), " nodes; activations and gradients ", gib(p.arena_bytes), " GiB, with workspace ",
                          gib(with.arena_bytes), " GiB, ", 100 * above, " % above the lower bound"));
                EXPECT(above <= 0.02, above);
                // What the design estimated for adapters on q, k, v and out: 0.53 GiB in f16.
                if (!all) EXPECT(gib(p.arena_bytes) <= 2 * 0.53, gib(p.arena_bytes), " GiB");
              });
  test_case("a graph that spans the text encoder and the UNet computes what the two compute one after the other", [] {
    TemporaryFolder folder;
    const Config text_config = small_text_encoder(), unet_config = small_unet();
    Weights text_weights{Weights::StorageTypes{}}, unet_weights{Weights::StorageTypes{}};
    const auto fill = [&](Weights& weights, const char* name, const Layout& layout) {
      weights.add(write_random(folder.file(name), layout, 1).path, layout.entries);
    };
    fill(text_weights, "text", text_encoder_layout(text_config));
    fill(unet_weights, "unet", unet_layout(unet_config));
    const Adapters adapters = adapters_for(adaptable(unet_weights, unet_config), 2);
    const Network text_encoder{"text_encoder", &text_config, &text_weights, &kNoAdapters},
        unet_network{"unet", &unet_config, &unet_weights, &adapters};
    const Shapes shapes = {{"ids", {2, 5}}, {"latents", {2, 4, 4, 4}}, {"timesteps", {2}}, {"context", {2, 5, 12}}};

    Builder encode(text_encoder, DType::f32, shapes), predict(unet_network, DType::f32, shapes), both(text_encoder, DType::f32, shapes);
    encode.graph.results = find_function("clip", "encode").build(encode, {});
    predict.graph.results = find_function("unet", "predict").build(predict, {});
    const ValueId context = find_function("clip", "encode").build(both, {})[0];
    both.enter(unet_network);
    both.graph.results = {unet(both, latents_input(both, "latents", DType::f32), {context})};
    for (const Node& node : both.graph.nodes)
      for (ValueId v : node.inputs)
        EXPECT(both.graph.values[v].storage != Storage::input || both.graph.values[v].name != "context", "context is asked for");

    // The numbers of each value by the network it belongs to and its name.
    const Feed whole = random_feed(both.graph, 1);
    const auto part = [&](const Graph& graph) {
      Feed feed = random_feed(graph, 2);
      for (auto& [v, data] : feed)
        for (const auto& [w, given] : whole)
          if (both.graph.values[w].network == graph.values[v].network && both.graph.values[w].name == graph.values[v].name) data = given;
      return feed;
    };
    Backend& cpu = backend(variants().back(), 2);
    const auto states = execute(cpu, encode.graph, part(encode.graph));
    Feed feed = part(predict.graph);
    for (auto& [v, data] : feed)
      if (predict.graph.values[v].name == "context") data = states.at(encode.graph.results[0]);
    const auto expected = execute(cpu, predict.graph, feed).at(predict.graph.results[0]);
    EXPECT(execute(cpu, both.graph, whole).at(both.graph.results[0]) == expected, "other bits");
  });
  test_case("latents that the levels do not divide are refused with their shape", [] {
    Sd15 sd;
    const std::string message = expect_error("SHAPE_MISMATCH", [&] { train_graph(sd.weights, sd.config, kNoAdapters, {1, 60, 64}, 77); });
    EXPECT(message.find("8") != std::string::npos && message.find("[1, 60, 64, 4]") != std::string::npos, message);
  });
}

}  // namespace lorafuse::test
