// A session over a small random model: adapters that attach or leave things as they were, steps that add up, updates, memory.
#include "train/session.h"

#include "checkpoint.h"
#include "golden.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

// The UNet's file with matrices in another type and vectors in f32: what a precision makes of an f32 one.
Layout with_matrices(const Layout& layout, DType dtype) {
  Layout other;
  for (const WeightEntry& e : layout.entries) {
    other.dtype = e.shape.rank() > 1 ? dtype : DType::f32;
    other.add(e.name, e.shape);
  }
  return other;
}

// What a file's tensors take: the nine taps of an upsampling convolution are held as sixteen sums.
size_t held_bytes(const Layout& layout) {
  size_t bytes = layout.bytes;
  for (const WeightEntry& e : layout.entries)
    if (e.name.ends_with("upsamplers.0.conv.weight")) bytes += e.shape.elements() / 9 * 7 * size_of(e.dtype);
  return bytes;
}

struct Model {
  TemporaryFolder folder;
  SessionOptions options;

  explicit Model(int threads = 2, DType matrices = DType::f32, DType precision = DType::f32) {
    options.threads = threads;
    options.precision = precision;
    options.unet = small_unet();
    options.text_encoder = small_text_encoder();
    options.vae = small_vae();
    options.unet_files = {write_random(folder.file("unet"), with_matrices(unet_layout(options.unet), matrices), 1)};
    options.text_encoder_files = {write_random(folder.file("text"), text_encoder_layout(*options.text_encoder), 2)};
    options.vae_files = {write_random(folder.file("vae"), vae_layout(*options.vae), 3)};
  }
};

bool on_gpu(const SessionOptions& options) { return options.device == Device::cuda; }

// The places a session may be opened on here: the CPU, and the GPU for each type that it computes in.
struct Place {
  std::string name;
  Device device;
  DType precision;
};
std::vector<Place> places() {
  std::vector<Place> all = {{"the CPU", Device::cpu, DType::f32}};
  for (DType type : gpu_types()) all.push_back({text("the gpu in ", lorafuse::name_of(type)), Device::cuda, type});
  return all;
}

std::vector<Adapter> all_adapters(Session& session, int64_t rank) {
  std::vector<Adapter> adapters;
  for (const LinearLayer& l : session.modules()) adapters.push_back({l.path, rank, 0.5f});
  return adapters;
}

// A session with random adapters on every layer.
struct Ready {
  Session session;
  explicit Ready(const SessionOptions& options) : session(options) {
    session.attach(all_adapters(session, 2));
    const auto data = Random(6).normals(session.parameters(), 0.3f);
    session.write_adapters(AdapterBuffer::weights, data.data(), session.parameters());
  }
};

StepInput input(LatentShape shape, uint64_t seed, int64_t tokens = 5) {
  Random random(seed);
  const int64_t elements = shape.batch * shape.height * shape.width * 4;
  StepInput in{shape, tokens, random.normals(elements), random.normals(elements), {}, {}, random.normals(shape.batch * tokens * 12)};
  for (int64_t b = 0; b < shape.batch; b++) {
    in.coefficients.insert(in.coefficients.end(), {0.8f, 0.6f});
    in.timesteps.push_back(static_cast<float>(random.below(10)));
  }
  return in;
}
std::vector<float> weights_of(const StepInput& in) { return std::vector<float>(in.shape.batch, 1.0f / static_cast<float>(in.shape.batch)); }

// A batch's losses; its gradients are added to those that are there, for an update if any.
std::vector<float> train(Session& session, const StepInput& in, const AdamW* update = nullptr) {
  session.load(in);
  session.step(weights_of(in), update);
  return session.losses();
}

std::vector<float> gradients_of(Session& session) { return session.read_adapters(AdapterBuffer::gradients); }
void forget_gradients(Session& session) {
  const std::vector<float> zeros(session.parameters());
  session.write_adapters(AdapterBuffer::gradients, zeros.data(), session.parameters());
}

// The training graph of a session over `model`, with the session's adapters, to be computed by the plain reference.
struct Reference {
  Weights weights;
  Graph graph;
  Feed feed;                           // but for the step's inputs
  std::map<ValueId, int64_t> offsets;  // of gradients, in the session's buffer

  Reference(const Model& model, Session& session, const StepInput& in)
      : weights(on_gpu(model.options) ? Weights::Held{model.options.precision, DType::f32} : Weights::Held{}) {
    weights.add(model.options.unet_files[0].path, model.options.unet_files[0].entries);
    const Graph forward = train_graph(weights, model.options.unet, adapters_for(session.modules(), 2), in.shape, in.tokens,
                                      on_gpu(model.options) ? model.options.precision : DType::f32);
    graph = gradients(forward, forward.results[0]);
    feed = train_feed(graph, weights, 0);
    std::map<std::string, int64_t> of;
    int64_t offset = 0;
    for (const LinearLayer& l : session.modules()) {
      of[l.path + ".down"] = offset;
      of[l.path + ".up"] = offset += 2 * l.in_features;
      offset += 2 * l.out_features;
    }
    const auto adapters = session.read_adapters(AdapterBuffer::weights);
    for (auto& [v, data] : feed) {
      const Value& value = graph.values[v];
      if (value.storage == Storage::parameter) std::copy_n(adapters.begin() + of.at(value.name), data.size(), data.begin());
      if (value.storage != Storage::gradient) continue;
      data.assign(data.size(), 0);
      offsets[v] = of.at(value.name);
    }
  }

  // All values after these steps, one after the other.
  template <class T>
  std::vector<Array<T>> after(const std::vector<StepInput>& steps) {
    std::vector<Array<T>> values;
    for (const StepInput& in : steps) {
      const std::vector<float> weights = weights_of(in);
      const std::map<std::string, const std::vector<float>*> inputs = {{"latents", &in.latents},           {"noise", &in.noise},
                                                                       {"coefficients", &in.coefficients}, {"timesteps", &in.timesteps},
                                                                       {"context", &in.context},           {"weights", &weights}};
      std::vector<Array<T>> next(graph.values.size());
      for (const auto& [v, data] : feed) {
        const Value& value = graph.values[v];
        next[v] = Array<T>(value.shape, value.storage == Storage::input ? *inputs.at(value.name) : data);
        if (value.storage == Storage::gradient && !values.empty()) next[v] = values[v];
      }
      values = interpret(graph, std::move(next));
    }
    return values;
  }

  Outcome of(Session& session, const std::vector<float>& losses) {
    const auto all = gradients_of(session);
    Outcome outcome{{graph.results[0], losses}};
    for (const auto& [v, offset] : offsets) outcome[v].assign(all.begin() + offset, all.begin() + offset + graph.shape(v).elements());
    return outcome;
  }
};

}  // namespace

SUITE(session) {
  test_case("adapters that do not fit are refused and the old ones stay as they are", [] {
    Model model;
    Ready ready(model.options);
    Session& session = ready.session;
    train(session, input({1, 4, 4}, 1));
    const auto weights = session.read_adapters(AdapterBuffer::weights), gradients = gradients_of(session);
    const std::string known = session.modules()[0].path;
    const std::string message = expect_error("UNKNOWN_MODULE", [&] { session.attach({{known, 2, 1}, {"mid_block.nothing", 2, 1}}); });
    EXPECT(message.find("mid_block.nothing") != std::string::npos, message);
    expect_error("UNKNOWN_MODULE", [&] { session.attach({{known, 2, 1}, {known, 2, 1}}); });
    expect_error("UNKNOWN_MODULE", [&] { session.attach({{"time_embedding.linear_1", 2, 1}}); });
    for (int64_t rank : {0, -1}) expect_error("INVALID_RANK", [&] { session.attach({{known, rank, 1}}); });
    EXPECT(session.read_adapters(AdapterBuffer::weights) == weights && gradients_of(session) == gradients, "the adapters were touched");
    train(session, input({1, 4, 4}, 2));
  });
  test_case("attaching again begins with zeros in every buffer", [] {
    Model model;
    Ready ready(model.options);
    train(ready.session, input({1, 4, 4}, 1));
    ready.session.attach({{ready.session.modules()[0].path, 4, 1}});
    EXPECT(ready.session.parameters() == 4 * (8 + 8), ready.session.parameters());
    for (auto buffer : {AdapterBuffer::weights, AdapterBuffer::gradients, AdapterBuffer::first_moment, AdapterBuffer::second_moment})
      for (float x : ready.session.read_adapters(buffer)) EXPECT(x == 0, x);
  });
  test_case("a step without adapters is refused", [] {
    Model model;
    Session session(model.options);
    expect_error("NO_ADAPTERS", [&] { train(session, input({1, 4, 4}, 1)); });
    expect_error("NO_ADAPTERS", [&] { session.norm(); });
  });
  test_case("inputs of another size than the shape says are refused by name", [] {
    Model model;
    Ready ready(model.options);
    const std::pair<const char*, std::vector<float> StepInput::*> members[] = {{"latents", &StepInput::latents},
                                                                               {"noise", &StepInput::noise},
                                                                               {"coefficients", &StepInput::coefficients},
                                                                               {"timesteps", &StepInput::timesteps},
                                                                               {"context", &StepInput::context}};
    for (const auto& [name, member] : members) {
      StepInput in = input({1, 4, 4}, 1);
      (in.*member).push_back(0);
      const std::string message = expect_error("INVALID_ARGUMENT", [&] { ready.session.load(in); });
      EXPECT(message.find(name) != std::string::npos, message);
    }
    ready.session.load(input({2, 4, 4}, 1));
    expect_error("INVALID_ARGUMENT", [&] { ready.session.step({1}); });
    const std::vector<float> few(3);
    expect_error("INVALID_ARGUMENT", [&] { ready.session.write_adapters(AdapterBuffer::weights, few.data(), 3); });
  });
  for (const Place& place : places())
    test_case("a batch that is loaded while the one before it is computed gives the same bits, and losses wait in order, on " + place.name,
              [=] {
                Model model;
                model.options.device = place.device;
                model.options.precision = place.precision;
                Ready one(model.options), ahead(model.options);
                const std::vector<StepInput> batches = {input({1, 4, 4}, 1), input({2, 8, 4}, 2), input({1, 4, 4}, 3), input({2, 8, 4}, 4),
                                                        input({2, 4, 6}, 5)};
                std::vector<float> expected;
                for (const StepInput& in : batches)
                  for (float loss : train(one.session, in)) expected.push_back(loss);
                ahead.session.load(batches[0]);
                for (size_t i = 0; i < batches.size(); i++) {
                  if (i + 1 < batches.size()) ahead.session.load(batches[i + 1]);
                  ahead.session.step(weights_of(batches[i]));
                }
                EXPECT(ahead.session.losses() == expected, "other losses");
                EXPECT(ahead.session.losses().empty(), "losses are told twice");
                EXPECT(gradients_of(ahead.session) == gradients_of(one.session), "other gradients");
              });
  test_case("a step without a batch and a third batch are refused", [] {
    Model model;
    Ready ready(model.options);
    expect_error("INVALID_ARGUMENT", [&] { ready.session.step({1}); });
    for (uint64_t seed : {1, 2}) ready.session.load(input({1, 4, 4}, seed));
    expect_error("INVALID_ARGUMENT", [&] { ready.session.load(input({1, 4, 4}, 3)); });
    for (int i = 0; i < 2; i++) ready.session.step({1});
    EXPECT(ready.session.losses().size() == 2, "losses");
  });
  test_case("more losses than wait on the gpu are all there", [] {
    Model model;
    Ready ready(model.options);
    const StepInput in = input({3, 2, 2}, 1);
    for (int i = 0; i < 400; i++) {
      ready.session.load(in);
      ready.session.step(weights_of(in));
    }
    const auto losses = ready.session.losses();
    EXPECT(losses.size() == 1200, losses.size());
    for (size_t i = 0; i < losses.size(); i++) EXPECT(losses[i] == losses[i % 3], "loss ", i, " is ", losses[i]);
  });
  for (const Place& place : places())
    test_case("losses are those of the f64 graph, and gradients of several steps add up until an update takes them, on " + place.name, [=] {
      Model model;
      model.options.device = place.device;
      model.options.precision = place.precision;
      Ready ready(model.options);
      Reference reference(model, ready.session, input({2, 4, 6}, 0));
      GraphDeviation actual, naive;
      for (uint64_t seed = 1; seed <= 12; seed += 2) {
        const std::vector<StepInput> steps = {input({2, 4, 6}, seed), input({2, 4, 6}, seed + 1)};
        std::vector<float> losses;
        for (const StepInput& in : steps) losses = train(ready.session, in);
        const auto expected = reference.after<double>(steps);
        actual.add(reference.graph, reference.of(ready.session, losses), expected);
        naive.add(reference.graph, outcome_of(reference.graph, reference.after<float>(steps)), expected);
        const AdamW taken{.learning_rate = 0};
        train(ready.session, input({2, 4, 6}, 99), &taken);
        for (float g : gradients_of(ready.session)) EXPECT(g == 0, g);
      }
      expect_as_good(actual, naive);
    });
  test_case("a step gives the same bits whatever ran in between, for any number of threads", [] {
    std::vector<std::vector<float>> all;
    for (int threads : {1, 2, 3}) {
      Model model(threads);
      Ready ready(model.options);
      Session& session = ready.session;
      for (bool busy : {false, true}) {
        if (busy) {  // other shapes, larger arenas, encoders
          session.predict(Random(1).normals(2 * 8 * 8 * 4), {2, 8, 8}, {3, 900}, Random(2).normals(2 * 7 * 12));
          session.encode_text({1, 2, 3, 39}, 2, 1);
          session.encode_images(Random(3).normals(16 * 16 * 3), {1, 16, 16});
          session.decode_latents(Random(3).normals(16 * 8 * 4), {1, 16, 8});
          train(session, input({2, 8, 4}, 5));
          forget_gradients(session);
        }
        const auto losses = train(session, input({1, 4, 4}, 1));
        all.push_back(losses);
        const auto gradients = gradients_of(session);
        all.back().insert(all.back().end(), gradients.begin(), gradients.end());
        forget_gradients(session);
      }
    }
    for (const auto& result : all) EXPECT(result == all[0], "other bits");
  });
  for (const Place& place : places()) {
    if (place.device == Device::cpu) continue;
    test_case("a step gives the same bits whatever ran in between, first or replayed, on " + place.name, [=] {
      Model model;
      model.options.device = place.device;
      model.options.precision = place.precision;
      Ready ready(model.options);
      Session& session = ready.session;
      std::vector<std::vector<float>> all;
      for (int round = 0; round < 4; round++) {
        if (round == 3) {  // another shape, a larger arena, encoders
          session.predict(Random(1).normals(2 * 8 * 8 * 4), {2, 8, 8}, {3, 900}, Random(2).normals(2 * 7 * 12));
          session.encode_text({1, 2, 3, 39}, 2, 1);
          session.encode_images(Random(3).normals(16 * 16 * 3), {1, 16, 16});
          session.decode_latents(Random(3).normals(16 * 8 * 4), {1, 16, 8});
        }
        all.push_back(train(session, input({1, 4, 4}, 1)));
        const auto gradients = gradients_of(session);
        all.back().insert(all.back().end(), gradients.begin(), gradients.end());
        forget_gradients(session);
      }
      for (const auto& result : all) EXPECT(result == all[0], "other bits");
    });
  }
  for (const Place& place : places())
    test_case("updates at the end of steps that are replayed have their own options, on " + place.name, [=] {
      Model model;
      model.options.device = place.device;
      model.options.precision = place.precision;
      Ready replaying(model.options);
      const AdapterBuffer kept[] = {AdapterBuffer::weights, AdapterBuffer::first_moment, AdapterBuffer::second_moment};
      for (int64_t step = 1; step <= 5; step++) {
        const AdamW update{
            .learning_rate = 1e-2f / static_cast<float>(step), .weight_decay = 0.1f * static_cast<float>(step), .step = step};
        Ready fresh(model.options);  // whose first step is never a replayed one
        for (AdapterBuffer b : kept) fresh.session.write_adapters(b, replaying.session.read_adapters(b).data(), fresh.session.parameters());
        for (Session* session : {&replaying.session, &fresh.session}) {
          train(*session, input({1, 4, 4}, 2 * step));
          train(*session, input({2, 4, 4}, 2 * step + 1), &update);
        }
        EXPECT(replaying.session.norm() == fresh.session.norm() && std::isfinite(fresh.session.norm()), "step ", step, ": another norm");
        for (AdapterBuffer b : kept)
          EXPECT(replaying.session.read_adapters(b) == fresh.session.read_adapters(b), "step ", step, ": other bits");
      }
    });
  test_case("a NaN in a step reaches the loss, and the update that follows changes nothing", [] {
    Model model;
    Ready ready(model.options);
    Session& session = ready.session;
    const AdamW update{.step = 1}, second{.step = 2};
    train(session, input({1, 4, 4}, 1), &update);
    EXPECT(std::isfinite(session.norm()), "the norm is ", session.norm());
    const auto weights = session.read_adapters(AdapterBuffer::weights), first = session.read_adapters(AdapterBuffer::first_moment);
    StepInput bad = input({1, 4, 4}, 2);
    bad.latents[5] = NAN;
    EXPECT(std::isnan(train(session, bad, &second)[0]), "the loss hides it");
    EXPECT(!std::isfinite(session.norm()), "the norm hides it");
    EXPECT(session.read_adapters(AdapterBuffer::weights) == weights, "weights moved");
    EXPECT(session.read_adapters(AdapterBuffer::first_moment) == first, "moments moved");
  });
  test_case("training lowers the loss", [] {
    Model model;
    Ready ready(model.options);
    const StepInput in = input({2, 4, 4}, 3);
    float first = 0, last = 0;
    for (int64_t step = 1; step <= 30; step++) {
      const AdamW update{.learning_rate = 3e-3f, .step = step};
      const auto losses = train(ready.session, in, &update);
      last = losses[0] + losses[1];
      if (step == 1) first = last;
    }
    EXPECT(last < 0.9f * first, "from ", first, " to ", last);
  });
  test_case("adapters of scale 0 or with up = 0 change no prediction", [] {
    Model model;
    Session plain(model.options), attached(model.options);
    attached.attach(all_adapters(attached, 3));
    const auto latents = Random(1).normals(4 * 4 * 4), context = Random(2).normals(5 * 12);
    EXPECT(plain.predict(latents, {1, 4, 4}, {500}, context) == attached.predict(latents, {1, 4, 4}, {500}, context), "up = 0 changes it");
  });
  for (DType dtype : {DType::f16, DType::bf16})
    test_case(
        text("weights rounded to ", lorafuse::name_of(dtype), " take half the memory and predict as well as a file of that type does"),
        [=] {
          const Model full, as_file(2, dtype), rounding(2, DType::f32, dtype);
          Session f(full.options), a(as_file.options), r(rounding.options);
          const auto latents = Random(1).normals(4 * 4 * 4), context = Random(2).normals(5 * 12);
          auto predict = [&](Session& s) { return s.predict(latents, {1, 4, 4}, {500}, context); };
          // Not the same bits: an upsampling convolution sums the file's numbers and rounds the sums.
          auto error = [&](Session& s) { return relative_error(predict(s), predict(f)); };
          EXPECT(error(r) > 0 && error(r) <= 2 * error(a), "an error of ", error(r), ", that of the file is ", error(a));
          for (Session* s : {&f, &r}) s->attach(all_adapters(*s, 2));
          const size_t before = f.memory_plan({1, 4, 4}, 5).weights, after = r.memory_plan({1, 4, 4}, 5).weights;
          EXPECT(after == held_bytes(with_matrices(unet_layout(full.options.unet), dtype)) && after < before, after, " bytes of ", before);
        });
  test_case("the memory plan counts weights, adapters with moments, activations and workspace", [] {
    Model model;
    Ready ready(model.options);
    const MemoryPlan small = ready.session.memory_plan({1, 4, 4}, 5), large = ready.session.memory_plan({2, 8, 8}, 5);
    const size_t weights = held_bytes(unet_layout(model.options.unet));
    EXPECT(small.weights == weights, small.weights, " bytes of weights instead of ", weights);
    EXPECT(small.adapters == 4 * sizeof(float) * ready.session.parameters(), small.adapters);
    EXPECT(large.activations > small.activations && large.weights == small.weights, large.activations, " and ", small.activations);
  });
  test_case("encoders that the session was opened without are refused", [] {
    Model model;
    model.options.text_encoder.reset();
    model.options.vae.reset();
    Session session(model.options);
    expect_error("MODEL_INCOMPLETE", [&] { session.encode_text({1}, 1, 0); });
    expect_error("MODEL_INCOMPLETE", [&] { session.encode_images({}, {1, 8, 8}); });
    expect_error("MODEL_INCOMPLETE", [&] { session.decode_latents({}, {1, 8, 8}); });
  });
  test_case("token ids beyond the vocabulary and too many tokens are refused", [] {
    Model model;
    Session session(model.options);
    expect_error("INVALID_ARGUMENT", [&] { session.encode_text({1, 40}, 1, 0); });
    expect_error("INVALID_ARGUMENT", [&] { session.encode_text({1, -1}, 1, 0); });
    expect_error("INVALID_ARGUMENT", [&] { session.encode_text({1, 2, 3}, 2, 0); });
    expect_error("SHAPE_MISMATCH", [&] { session.encode_text(std::vector<int32_t>(10, 1), 1, 0); });
    expect_error("INVALID_OPTION", [&] { session.encode_text({1, 2}, 1, 2); });
    EXPECT(session.encode_text({1, 2, 3, 4}, 2, 0).size() == 4 * 12, "size");
  });
}

}  // namespace lorafuse::test
