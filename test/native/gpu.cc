// Whole networks on the GPU: their outputs, a training step and what the plan promises, against the f64 graph.
#include "checkpoint.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

// A network's function, and the shapes it is tried at.
struct Function {
  const char* architecture;
  const char* name;
  Config config;
  Layout (*layout)(const Config&, DType);
  Shapes shapes;
  Config settings{};
};

// The weights of a made-up checkpoint as a GPU holds them.
struct OnGpu {
  TemporaryFolder folder;
  Weights weights;
  OnGpu(DType dtype, const Layout& layout) : weights(Weights::StorageTypes{dtype, DType::f32}) {
    const WeightFile file = write_random(folder.file("weights"), layout, 3);
    weights.add(file.path, file.entries);
  }
};

void expect_as_naive(const Graph& graph, Weights& weights) {
  GraphDeviation actual, naive;
  for (uint64_t seed = 1; seed <= 4; seed++) {
    const Feed feed = train_feed(graph, weights, seed);
    const auto expected = interpret<double>(graph, feed);
    actual.add(graph, execute(*gpu(), fuse(graph, gpu()->fusions()), feed), expected);
    naive.add(graph, outcome_of(graph, interpret<float>(graph, feed)), expected);
  }
  expect_as_good(actual, naive);
}

void network_case(const char* name, DType dtype, const Function& f) {
  test_case(lorafuse::text(name, " on the gpu in ", name_of(dtype)), [=] {
    OnGpu model(dtype, f.layout(f.config, DType::f32));
    Builder b = builder(f.config, model.weights, kNoAdapters, dtype, f.shapes);
    b.graph.results = find_function(f.architecture, f.name).build(b, f.settings);
    expect_as_naive(b.graph, model.weights);
  });
}

// all: adapters on convolutions too, and blocks are computed again for their gradients.
struct Training {
  OnGpu model;
  Graph graph;  // not fused
  explicit Training(DType dtype, bool all = false) : model(dtype, unet_layout(small_unet())) {
    const Config config = small_unet();
    const Adapters adapters = adapters_for(adaptable(model.weights, config, all), 2);
    const Graph forward = train_graph(model.weights, config, adapters, {2, 6, 4}, 7, dtype);
    graph = gradients(forward, forward.results[0], all);
  }
};

// Of adapters on a text encoder, through the UNet.
struct TextTraining {
  TemporaryFolder folder;
  Weights weights;
  Graph graph;
  explicit TextTraining(DType dtype) : weights(Weights::StorageTypes{dtype, DType::f32}) {
    const Config unet = small_unet(), config = small_text_encoder();
    for (const auto& [name, layout] : {std::pair{"unet", unet_layout(unet)}, {"text", text_encoder_layout(config)}}) {
      const WeightFile file = write_random(folder.file(name), layout, 3);
      weights.add(file.path, file.entries);
    }
    Builder text(Network{"text", &config, &weights, &kNoAdapters}, dtype);
    find_function("clip", "encode").build(text, {});
    const Adapters adapters = adapters_for(text.layers, 2);
    Builder b(Network{"unet", &unet, &weights, &kNoAdapters}, dtype,
              {{"latents", {2, 6, 4, 4}}, {"text.ids", {2, 9}}, {"text.rows", {2, 7}}});
    const ValueId loss = training_loss(b, {{{"text", &config, &weights, &adapters}, {}}});
    b.graph.results = {loss};
    graph = gradients(b.graph, loss);
  }
};

}  // namespace

SUITE(gpu) {
  for (DType dtype : gpu_network_types()) {
    network_case("the UNet's prediction", dtype,
                 {"unet", "predict", small_unet(), unet_layout, prediction_shapes(small_unet(), {2, 8, 4}, 7)});
    network_case("the text encoder", dtype, {"clip", "encode", small_text_encoder(), text_encoder_layout, {{"ids", {2, 7}}}});
    network_case("the text encoder with a pooled text", dtype,
                 {"clip",
                  "encode",
                  small_pooled_text_encoder(),
                  text_encoder_layout,
                  {{"ids", {2, 7}}, {"last", {3}}},
                  Config("settings", {{"skip", 1.0}, {"norm", 0.0}, {"pooled", 1.0}})});
    if (dtype == DType::f32) {  // the only type that the VAE is computed in
      network_case("the VAE's encoder", dtype, {"vae", "encode", small_vae(), vae_layout, {{"pixels", {1, 16, 8, 3}}}});
      network_case("the VAE's decoder", dtype, {"vae", "decode", small_vae(), vae_layout, {{"latents", {1, 8, 4, 4}}}});
    }
    for (const bool all : {false, true})
      test_case(lorafuse::text("a training step on the gpu in ", name_of(dtype),
                               all ? ", with adapters on all layers and blocks computed again" : ""),
                [=] {
                  Training t(dtype, all);
                  expect_as_naive(t.graph, t.model.weights);
                });
    test_case(lorafuse::text("a training step of a text encoder on the gpu in ", name_of(dtype)), [=] {
      TextTraining t(dtype);
      expect_as_naive(t.graph, t.weights);
    });
    test_case(lorafuse::text("a training step on the gpu in ", name_of(dtype), " gives the same bits when freed memory is poisoned"), [=] {
      Training t(dtype);
      const Graph fused = fuse(t.graph, gpu()->fusions());
      const Feed feed = train_feed(fused, t.model.weights, 5);
      const Outcome kept = execute(*gpu(), fused, feed), poisoned = execute(*gpu(), fused, feed, true);
      EXPECT(same_bits(kept, poisoned), "something reads memory that the plan gave away");
      for (const auto& [v, data] : kept)
        for (float x : data) EXPECT(std::isfinite(x), t.graph.values[v].name, " has ", x);
    });
  }
}

}  // namespace lorafuse::test
