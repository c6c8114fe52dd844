// A training step from files: prediction, loss and every adapter's gradient as diffusers + peft compute them, on the CPU and on the GPU.
#include "golden.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

struct Place {
  std::string name;
  Backend* backend;
  DType computes;          // its products' operands
  DType holds = computes;  // what it makes
  bool on_gpu() const { return !backend->reads_host_memory(); }
};

std::vector<Place> places() {
  std::vector<Place> all;
  for (const std::string& v : variants()) all.push_back({"the CPU, " + label(v), &backend(v, 2), multiplies(v), DType::f32});
  for (DType type : gpu_network_types())  // the goldens have errors of f32 and f16
    if (type != DType::bf16) all.push_back({.name = std::string("the gpu in ") + name_of(type), .backend = gpu(), .computes = type});
  return all;
}

// A golden's model and adapters where they are computed.
struct Run {
  const Golden golden;
  const Place place;
  const float loss_scale;  // as scripts/goldens/reference.py
  Weights weights;
  std::vector<Layer> layers;
  Adapters adapters;

  Run(const std::string& name, const Place& where, bool attention_only = false)
      : golden(name), place(where), loss_scale(where.computes == DType::f16 ? 1024 : 1),
        weights(where.on_gpu() ? Weights::StorageTypes{where.holds, DType::f32} : Weights::StorageTypes{}) {
    weights.add(golden.unet.path, golden.unet.entries);
    layers = adaptable(weights, golden.config);
    if (attention_only) std::erase_if(layers, [](const Layer& l) { return l.path.find(".attn") == std::string::npos; });
    adapters = adapters_for(layers, golden.rank, golden.alpha / static_cast<float>(golden.rank));
  }

  // Inputs by name, the files' weights, adapters drawn from their names, gradients from 0.
  Outcome execute(const Graph& graph, const std::map<std::string, std::vector<float>>& inputs) {
    Feed feed = train_feed(graph, weights, 0);
    for (auto& [v, data] : feed) {
      const Value& value = graph.values[v];
      if (value.storage == Storage::input) data = inputs.at(value.name);
      if (value.storage == Storage::parameter) data = pattern(value.name, value.shape.elements(), golden.deviation);
      if (value.storage == Storage::gradient) data.assign(data.size(), 0);
    }
    return test::execute(*place.backend, graph, feed);
  }

  std::map<std::string, std::vector<float>> inputs(const std::string& of) const {
    const bool text_time = has_text_time(golden.config);
    const int64_t elements = golden.latents.batch * golden.latents.height * golden.latents.width * golden.config.count("in_channels");
    std::map<std::string, std::vector<float>> all = {{"latents", pattern("latents " + of, elements)},
                                                     {"context", golden.file.tensor(text_time ? "context" : "text_skip_0")}};
    if (text_time) all["pooled"] = golden.file.tensor("pooled"), all["time_ids"] = golden.file.tensor("time_ids");
    return all;
  }

  // The worst tensor of a group; fails with its name.
  void compare(const std::string& group, const std::map<std::string, std::vector<float>>& values) const {
    double worst = 0;
    for (const auto& [name, value] : values) worst = std::max(worst, error(group, name, value, golden.file.tensor(name)));
    note(text(group, ": relative error ", worst, " of at most ", golden.limit(place.computes, group)));
  }
  double error(const std::string& group, const std::string& name, const std::vector<float>& value, const std::vector<float>& truth) const {
    const double found = relative_error(value, truth), limit = golden.limit(place.computes, group);
    EXPECT(found <= limit, name, " has a relative error of ", found, ", more than ", limit);
    return found;
  }
};

int64_t tokens(const Run& run) {
  const auto& config = run.golden.config;
  return static_cast<int64_t>(run.inputs("")["context"].size()) / (run.golden.latents.batch * config.count("cross_attention_dim"));
}

void predicts(const std::string& name, const Place& place) {
  Run run(name, place);
  const Config& config = run.golden.config;
  Builder b = builder(config, run.weights, run.adapters, place.holds, prediction_shapes(config, run.golden.latents, tokens(run)));
  b.graph.results = find_function("unet", "predict").build(b, {});
  const Graph graph = fuse(b.graph, place.backend->fusions());
  std::map<std::string, std::vector<float>> found;
  for (const auto& [first, second] : {std::pair{0, 999}, {17, 500}}) {
    auto inputs = run.inputs(std::to_string(first));
    inputs["timesteps"] = {static_cast<float>(first), static_cast<float>(second)};
    found[text("unet_lora/", first, ",", second)] = run.execute(graph, inputs).at(graph.results[0]);
  }
  run.compare("unet_lora", found);
}

std::map<std::string, std::vector<float>> inputs_of_step(const Run& run, int step) {
  const std::string number = std::to_string(step);
  const int64_t batch = run.golden.latents.batch;
  auto inputs = run.inputs("of step " + number);
  inputs["noise"] = pattern("noise of step " + number, static_cast<int64_t>(inputs["latents"].size()));
  for (const char* name : {"coefficients", "timesteps"}) inputs[name] = run.golden.file.tensor(std::string(name) + "/" + number);
  for (int64_t i = 0; i < batch; i++)  // the target is the noise
    for (float c : {0.0f, 1.0f}) inputs["target_coefficients"].push_back(c);
  inputs["weights"] = std::vector<float>(batch, run.loss_scale / static_cast<float>(batch));
  auto& context = inputs["context"];  // of the two samples, in the other order at odd steps
  if (step % 2) std::rotate(context.begin(), context.begin() + static_cast<int64_t>(context.size()) / 2, context.end());
  return inputs;
}

// Those of the steps after the first, with the same adapters.
void add_losses(Run& run, std::vector<float>& losses) {
  const Golden& golden = run.golden;
  const Graph forward = train_graph(run.weights, golden.config, run.adapters, golden.latents, tokens(run), run.place.holds);
  const Graph graph = fuse(forward, run.place.backend->fusions());
  for (int step = 1; step < golden.steps; step++) {
    const std::vector<float> each = run.execute(graph, inputs_of_step(run, step)).at(graph.results[0]);
    losses.insert(losses.end(), each.begin(), each.end());
  }
}

// Computing blocks again changes no bit on the CPU. On a GPU it is compared with the golden, as other kernels may be chosen.
void recomputes(const std::string& name, const Place& place) {
  Run run(name, place);
  const Graph forward = train_graph(run.weights, run.golden.config, run.adapters, run.golden.latents, tokens(run), place.holds);
  const auto computed = [&](const Recompute& recompute) {
    const Graph graph = fuse(gradients(forward, forward.results[0], recompute), place.backend->fusions());
    std::map<std::string, std::vector<float>> found;
    for (const auto& [v, data] : run.execute(graph, inputs_of_step(run, 0))) {
      if (graph.values[v].storage != Storage::gradient) continue;
      auto& gradient = found[text("gradients_default/", graph.values[v].name)] = data;
      for (float& x : gradient) x /= run.loss_scale;
    }
    return found;
  };
  for (const Recompute& recompute : {Recompute(true), Recompute(region_names(forward, &Node::part))}) {
    const auto again = computed(recompute);
    if (place.on_gpu()) run.compare("gradients_default", again);
    else EXPECT(again == computed(false), "other bits");
  }
}

void steps(const std::string& name, const Place& place, const std::string& targets) {
  Run run(name, place, targets == "attention");
  const Golden& golden = run.golden;
  const Graph forward = train_graph(run.weights, golden.config, run.adapters, golden.latents, tokens(run), place.holds);
  const Graph graph = fuse(gradients(forward, forward.results[0]), place.backend->fusions());
  const Outcome outcome = run.execute(graph, inputs_of_step(run, 0));
  std::vector<float> losses = outcome.at(graph.results[0]), truth = golden.file.tensor("losses_" + targets);
  // Two losses in f16 may be far off by luck, so those of all steps are compared; the CPU tells them where the golden does not.
  const bool has_all = truth.size() > losses.size();
  if (has_all || place.computes == DType::f16) add_losses(run, losses);
  if (losses.size() > truth.size()) {
    Run on_cpu(name, places().front(), targets == "attention");
    add_losses(on_cpu, truth);
  }
  const std::string group = "losses_" + targets;
  note(text(group, ": relative error of ", losses.size(), " is ", run.error(group, group, losses, truth), " of at most ",
            golden.limit(place.computes, group)));
  std::map<std::string, std::vector<float>> found;
  for (const auto& [v, data] : outcome) {
    if (graph.values[v].storage != Storage::gradient) continue;
    auto& gradient = found[text("gradients_", targets, "/", graph.values[v].name)] = data;
    for (float& x : gradient) x /= run.loss_scale;
  }
  EXPECT(found.size() == 2 * run.layers.size(), found.size(), " gradients of ", run.layers.size(), " layers");
  run.compare("gradients_" + targets, found);
}

}  // namespace

SUITE(goldens) {
  for (const Place& place : places())
    for (const std::string name : {"golden-sd1", "golden-sdxl"}) {
      test_case(text(name, " on ", place.name, ": the UNet with adapters predicts as diffusers and peft do"),
                [=] { predicts(name, place); });
      if (name == "golden-sdxl" || !place.on_gpu())
        test_case(text(name, " on ", place.name, ": gradients of adapters with blocks that are computed again"),
                  [=] { recomputes(name, place); });
      for (const std::string targets : {"attention", "default"})
        if (targets == "default" || (name == "golden-sd1" && !(test_runner::quick() && place.on_gpu())))
          test_case(
              text(name, " on ", place.name, ": loss and gradients of adapters, targets ", targets, ", are those of diffusers and peft"),
              [=] { steps(name, place, targets); });
    }
  test_case("golden files that are none are refused by name", [] {
    TemporaryFolder folder;
    const std::string path = folder.file("other.safetensors");
    const std::string header = R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    auto refused = [&](const std::string& begin, const std::string& part) {
      write_file(path, {begin.begin(), begin.end()});
      try {
        Safetensors file(path);
      } catch (const Failure& e) {
        const std::string message = e.what();
        EXPECT(message.find(path) == 0 && message.find(part) != std::string::npos, "\"", message, "\" does not name ", part);
        return;
      }
      throw Failure("nothing was thrown instead of " + part);
    };
    auto framed = [](const std::string& json, size_t data) {
      const uint64_t length = json.size();
      return std::string(reinterpret_cast<const char*>(&length), sizeof length) + json + std::string(data, '\0');
    };
    refused("1234", "header");
    refused(framed(header, 8).substr(0, 20), "header");
    refused(framed(header, 7), "8 bytes within 7");
    refused(framed(R"({"t":{"dtype":"F8","shape":[2],"data_offsets":[0,8]}})", 8), "F8");
    refused(framed(R"({"t":{"dtype":"F32","data_offsets":[0,8]}})", 8), "shape");
    refused(framed(header + "x", 8), "the end");
    write_file(path, [&] {
      const std::string whole = framed(header, 8);
      return std::vector<unsigned char>(whole.begin(), whole.end());
    }());
    EXPECT(Safetensors(path).tensor("t") == std::vector<float>({0, 0}), "two zeros");
    try {
      Safetensors(path).tensor("u");
      throw Failure("a tensor that is not there was found");
    } catch (const Failure& e) { EXPECT(std::string(e.what()).find("expected tensor u in " + path) == 0, e.what()); }
  });
}

}  // namespace lorafuse::test
