// Whole networks on the GPU: their outputs, a training step and what the plan promises, against the f64 graph.
#include "checkpoint.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

using Network = ValueId (*)(Builder&);

ValueId prediction(Builder& b) { return predicted(b, small_unet(), b.input("latents", {2, 8, 4, 4}, b.graph.dtype), 7); }
ValueId text(Builder& b) { return text_encoder(b, small_text_encoder(), b.input("ids", {2, 7}, DType::i32), 0); }
ValueId encoded(Builder& b) { return vae_encoder(b, small_vae(), b.input("pixels", {1, 16, 8, 3})); }
ValueId decoded(Builder& b) { return vae_decoder(b, small_vae(), b.input("latents", {1, 8, 4, 4})); }

// The weights of a made-up checkpoint as a GPU holds them.
struct OnGpu {
  TemporaryFolder folder;
  Weights weights;
  OnGpu(DType dtype, const Layout& layout) : weights(Weights::Held{dtype, DType::f32}) {
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

void network_case(const char* name, DType dtype, const Layout& layout, Network network) {
  test_case(lorafuse::text(name, " on the gpu in ", name_of(dtype)), [=] {
    OnGpu model(dtype, layout);
    Builder b(model.weights, {}, dtype);
    b.graph.results = {network(b)};
    expect_as_naive(b.graph, model.weights);
  });
}

struct Training {
  OnGpu model;
  Graph graph;  // not fused
  explicit Training(DType dtype) : model(dtype, unet_layout(small_unet())) {
    const UNetConfig config = small_unet();
    const Graph forward = train_graph(model.weights, config, adapters_for(adaptable(model.weights, config), 2), {2, 6, 4}, 7, dtype);
    graph = gradients(forward, forward.results[0]);
  }
};

}  // namespace

SUITE(gpu) {
  for (DType dtype : gpu_types()) {
    network_case("the UNet's prediction", dtype, unet_layout(small_unet()), prediction);
    network_case("the text encoder", dtype, text_encoder_layout(small_text_encoder()), text);
    if (dtype == DType::f32) {  // the only type that the VAE is computed in
      network_case("the VAE's encoder", dtype, vae_layout(small_vae()), encoded);
      network_case("the VAE's decoder", dtype, vae_layout(small_vae()), decoded);
    }
    test_case(lorafuse::text("a training step on the gpu in ", name_of(dtype)), [=] {
      Training t(dtype);
      expect_as_naive(t.graph, t.model.weights);
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
