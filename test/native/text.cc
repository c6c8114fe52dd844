// Text encoders: what of their states is taken, and steps that encode their text, with adapters on the encoders.
#include <cstring>
#include <fstream>
#include <functional>

#include "checkpoint.h"
#include "golden.h"
#include "graphs.h"
#include "places.h"

namespace lorafuse::test {
namespace {

HostTensor ids(const Shape& shape, uint64_t seed, int64_t end = 40) {
  Random random(seed);
  std::vector<int32_t> data(shape.elements());
  for (int32_t& id : data) id = static_cast<int32_t>(random.below(end));
  return {shape, std::move(data)};
}
HostTensor integers(const Shape& shape, std::vector<int32_t> data) { return {shape, std::move(data)}; }
HostTensor normal(const Shape& shape, uint64_t seed) { return {shape, Random(seed).normals(shape.elements())}; }
const std::vector<float>& floats(const HostTensor& tensor) { return std::get<std::vector<float>>(tensor.data); }

Config settings(double skip, double norm, double pooled) {
  return Config("settings", {{"skip", skip}, {"norm", norm}, {"pooled", pooled}});
}

// OpenCLIP's file of the same weights: its projection lies the other way round, under another name.
WeightFile with_open_clip_projection(const std::string& path, const WeightFile& file, const Config& config) {
  WeightFile other{path, file.entries};
  std::string bytes;
  {
    std::ifstream in(file.path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::vector<unsigned char> changed(bytes.begin(), bytes.end());
  for (WeightEntry& e : other.entries) {
    if (e.name != "text_projection.weight") continue;
    const int64_t outputs = config.count("projection_dim"), width = config.count("hidden_size");
    for (int64_t n = 0; n < outputs; n++)
      for (int64_t c = 0; c < width; c++)
        std::memcpy(&changed[e.offset + 4 * (c * outputs + n)], &bytes[e.offset + 4 * (n * width + c)], 4);
    e.name = "text_projection", e.shape = {width, outputs};
  }
  write_file(path, changed);
  return other;
}

// A model of SD 1's kind, or of SDXL's with two text encoders.
struct Model {
  TemporaryFolder folder;
  SessionOptions options;

  explicit Model(bool xl = false, Device device = Device::cpu, DType precision = DType::f32) {
    options.device = device;
    options.precision = precision;
    options.threads = 2;
    add("unet", "unet", xl ? small_sdxl_unet() : small_unet(), unet_layout, 1);
    add("text_encoder", "clip", small_text_encoder(), text_encoder_layout, 2);
    options.text = {{"text_encoder", {.skip = 1, .norm = !xl}}};
    if (!xl) return;
    add("text_encoder_2", "clip", small_pooled_text_encoder(), text_encoder_layout, 3);
    options.text.push_back({"text_encoder_2", {1, false, true}});
  }
  void add(const std::string& name, const char* architecture, const Config& config, Layout (*layout)(const Config&, DType), uint64_t seed) {
    options.networks[name] = {architecture, config, {write_random(folder.file(name), layout(config, DType::f32), seed)}};
  }
};

// Random adapters on these networks: each layer of a text encoder, each of the UNet's attention blocks.
void attach(Session& session, const std::vector<std::string>& networks) {
  std::vector<AdapterSpec> specs;
  for (const std::string& network : networks)
    for (const Layer& l : session.layers(network))
      if (network != "unet" || l.path.find(".attentions.") != std::string::npos)
        specs.push_back({network, l.path, {Lora{2, 0.5f}, static_cast<uint8_t>(network != "unet")}});
  session.attach(specs, AdamW());
  session.write("weights", Random(6).normals(session.parameter_count(), 0.3f));
}

// A batch without its text.
Inputs batch(bool xl, uint64_t seed) {
  const Shape latents{2, 4, 4, 4};
  Inputs in = {{"latents", normal(latents, seed)}, {"noise", normal(latents, seed + 1)}};
  in["coefficients"] = {{2, 2}, std::vector<float>{0.8f, 0.6f, 0.8f, 0.6f}};
  in["target_coefficients"] = {{2, 2}, std::vector<float>{0, 1, 0, 1}};
  in["timesteps"] = {{2}, std::vector<float>{3, 7}};
  if (xl) in["time_ids"] = {{2, 6}, std::vector<float>{4, 4, 0, 0, 4, 4, 8, 4, 1, 0, 4, 4}};
  return in;
}

// Texts of two chunks of 4 tokens, of which 6 are taken.
Inputs encoded(bool xl, uint64_t seed) {
  Inputs in;
  const HostTensor rows = integers({2, 6}, {0, 1, 2, 5, 6, 7, 8, 9, 10, 13, 14, 15});
  in["text_encoder.ids"] = ids({4, 4}, seed), in["text_encoder.rows"] = rows;
  if (!xl) return in;
  in["text_encoder_2.ids"] = ids({4, 4}, seed + 1), in["text_encoder_2.rows"] = rows;
  in["text_encoder_2.last"] = integers({2}, {2, 11});
  return in;
}

Inputs joined(Inputs a, const Inputs& b) {
  a.insert(b.begin(), b.end());
  return a;
}

// What the session's text encoders, run by themselves, make of those inputs: `context` and `pooled`.
Inputs precomputed(Session& session, const SessionOptions& options, const Inputs& in) {
  std::vector<std::vector<float>> rows(12);
  Inputs out;
  for (const auto& [name, states] : options.text) {
    Inputs own = {{"ids", in.at(name + ".ids")}};
    if (states.pooled) own["last"] = in.at(name + ".last");
    const auto results = session.run(name, "encode", own, settings(static_cast<double>(states.skip), states.norm, states.pooled));
    const int64_t width = results[0].shape[-1];
    for (size_t r = 0; r < rows.size(); r++) {
      const auto from = floats(results[0]).begin() + std::get<std::vector<int32_t>>(in.at(name + ".rows").data)[r] * width;
      rows[r].insert(rows[r].end(), from, from + width);
    }
    if (states.pooled) out["pooled"] = results[1];
  }
  std::vector<float> context;
  for (const auto& row : rows) context.insert(context.end(), row.begin(), row.end());
  out["context"] = {{2, 6, static_cast<int64_t>(rows[0].size())}, std::move(context)};
  return out;
}

std::vector<float> train(Session& session, const Inputs& in, const Update* update = nullptr) {
  session.load(in);
  session.step({0.5f, 0.5f}, update);
  return session.losses();
}

}  // namespace

SUITE(text) {
  test_case("a text encoder's states: without the last layers, with or without the final norm, the text pooled beside them", [] {
    Model model(true);
    Session session(model.options);
    const Config config = small_pooled_text_encoder();
    const HostTensor tokens = ids({2, 7}, 1), last = integers({3}, {6, 9, 0});
    const auto encode = [&](double skip, double norm) {
      return session.run("text_encoder_2", "encode", {{"ids", tokens}}, settings(skip, norm, 0));
    };
    const auto norm = [&](const std::vector<float>& x) {
      Weights weights{Weights::StorageTypes{}};
      const WeightFile& file = model.options.networks.at("text_encoder_2").files[0];
      weights.add(file.path, file.entries);
      const auto vector = [&](const char* name) { return weights.get(name, DType::f32, {8}, Form::as_is).f32(); };
      const float *gamma = vector("text_model.final_layer_norm.weight"), *beta = vector("text_model.final_layer_norm.bias");
      std::vector<float> y(x.size());
      for (size_t r = 0; r < x.size(); r += 8) {
        double mean = 0, squares = 0;
        for (size_t i = r; i < r + 8; i++) mean += x[i] / 8.0;
        for (size_t i = r; i < r + 8; i++) squares += (x[i] - mean) * (x[i] - mean) / 8;
        for (size_t i = r; i < r + 8; i++)
          y[i] = static_cast<float>((x[i] - mean) / std::sqrt(squares + 1e-5) * gamma[i - r] + beta[i - r]);
      }
      return y;
    };
    for (double skip : {0.0, 1.0, 2.0}) {
      const auto plain = encode(skip, 0), normed = encode(skip, 1);
      EXPECT(plain.size() == 1 && plain[0].shape == Shape({2, 7, 8}), "other results");
      EXPECT(relative_error(floats(normed[0]), norm(floats(plain[0]))) < 1e-6, "the norm of ", skip, " layers less is another");
      EXPECT(skip == 0 || floats(plain[0]) != floats(encode(skip - 1, 0)[0]), "no layer is left out");
      for (double with_norm : {0.0, 1.0}) {
        const auto both = session.run("text_encoder_2", "encode", {{"ids", tokens}, {"last", last}}, settings(skip, with_norm, 1));
        EXPECT(both.size() == 2 && both[1].shape == Shape({3, 6}), "other results");
        EXPECT(floats(both[0]) == floats((with_norm ? normed : plain)[0]), "other hidden states where the text is pooled");
      }
    }
    const std::vector<float> state = floats(encode(0, 1)[0]);
    Weights weights{Weights::StorageTypes{}};
    const WeightFile& file = model.options.networks.at("text_encoder_2").files[0];
    weights.add(file.path, file.entries);
    const float* projection = weights.get("text_projection.weight", DType::f32, {6, 8}, Form::as_is).f32();
    std::vector<float> expected;
    for (int64_t row : {6, 9, 0})
      for (int64_t n = 0; n < 6; n++) {
        double sum = 0;
        for (int64_t c = 0; c < 8; c++) sum += static_cast<double>(state[row * 8 + c]) * projection[n * 8 + c];
        expected.push_back(static_cast<float>(sum));
      }
    const auto pooled = session.run("text_encoder_2", "encode", {{"ids", tokens}, {"last", last}}, settings(1, 0, 1))[1];
    EXPECT(relative_error(floats(pooled), expected) < 1e-6, "another pooled text");

    auto& files = model.options.networks.at("text_encoder_2").files;
    files = {with_open_clip_projection(model.folder.file("open_clip"), files[0], config)};
    Session open_clip(model.options);
    EXPECT(floats(open_clip.run("text_encoder_2", "encode", {{"ids", tokens}, {"last", last}}, settings(1, 0, 1))[1]) == floats(pooled),
           "another pooled text from OpenCLIP's spelling of the projection");
  });
  test_case("settings, rows and files that do not fit are refused by name", [] {
    Model model(true);
    Session session(model.options);
    const auto encode = [&](const char* network, const Config& with, std::vector<int32_t> last) {
      Inputs in = {{"ids", ids({1, 4}, 1)}};
      if (!last.empty()) in["last"] = integers({1}, std::move(last));
      return session.run(network, "encode", in, with);
    };
    const auto names = [](const std::string& message, const char* part) { EXPECT(message.find(part) != std::string::npos, message); };
    names(expect_error("ARGUMENT_INVALID", [&] { encode("text_encoder_2", settings(0, 2, 0), {}); }), "norm");
    names(expect_error("CONFIG_INVALID", [&] { encode("text_encoder_2", settings(0, 1, 0.5), {}); }), "pooled");
    names(expect_error("ARGUMENT_INVALID", [&] { encode("text_encoder_2", settings(0, 1, 1), {}); }), "last");
    names(expect_error("ARGUMENT_INVALID", [&] { encode("text_encoder_2", settings(0, 1, 0), {1}); }), "last");
    for (int32_t row : {4, -1})
      names(expect_error("ARGUMENT_INVALID", [&] { encode("text_encoder_2", settings(0, 1, 1), {row}); }), "last");
    names(expect_error("WEIGHT_MISSING", [&] { encode("text_encoder", settings(0, 1, 1), {1}); }), "text_projection.weight");
  });
  test_case("how a step makes its text is checked when a session is opened", [] {
    const auto refused = [](const char* code, const std::function<void(SessionOptions&)>& change) {
      Model model(true);
      change(model.options);
      expect_error(code, [&] { Session session(model.options); });
    };
    refused("MODEL_INCOMPLETE", [](SessionOptions& o) { o.text[0].network = "text_encoder_3"; });
    refused("MODEL_INCOMPLETE", [](SessionOptions& o) { o.networks.erase("unet"); });
    refused("ARGUMENT_INVALID", [](SessionOptions& o) { o.text[0].network = "unet"; });
    refused("ARGUMENT_INVALID", [](SessionOptions& o) { o.text[0].network = "text_encoder_2"; });
  });
  for (const Place& place : places())
    for (const bool xl : {false, true})
      test_case(
          text("a step that encodes its text has the loss of one that takes it, with", xl ? " two encoders," : " one encoder,", " on ",
               place.name),
          [=] {
            Model model(xl, place.device, place.precision);
            std::vector<std::string> all = {"unet", "text_encoder"};
            if (xl) all.push_back("text_encoder_2");
            Session encoding(model.options);
            attach(encoding, all);
            const Inputs given = batch(xl, 1), tokens = encoded(xl, 5);
            const Inputs context = precomputed(encoding, model.options, tokens);
            const auto loss = train(encoding, joined(given, tokens));

            // The same adapters on the UNet, none on the encoders.
            Session taking(model.options);
            attach(taking, {"unet"});
            auto weights = encoding.read("weights");
            weights.resize(taking.parameter_count());  // the UNet's, the first group
            taking.write("weights", weights);
            EXPECT(train(taking, joined(given, context)) == loss, "another loss");
            // Gradients of the UNet's adapters do not depend on where its text comes from.
            auto gradients = encoding.read("gradients");
            for (size_t i = weights.size(); i < gradients.size(); i++) EXPECT(std::isfinite(gradients[i]), gradients[i]);
            EXPECT(std::any_of(gradients.begin() + static_cast<int64_t>(weights.size()), gradients.end(), [](float g) { return g != 0; }),
                   "the encoders' adapters have no gradients");
            gradients.resize(weights.size());
            EXPECT(gradients == taking.read("gradients"), "other gradients of the UNet's adapters");
            // The encoders are kept, and give what they gave.
            EXPECT(floats(precomputed(encoding, model.options, tokens).at("context")) == floats(context.at("context")), "another text");
            EXPECT(train(encoding, joined(given, tokens)) == loss, "another loss the second time");
          });
  test_case("adapters on text encoders alone lower the loss", [] {
    Model model(true);
    Session session(model.options);
    attach(session, {"text_encoder", "text_encoder_2"});
    const Inputs in = joined(batch(true, 1), encoded(true, 5));
    float first = 0, last = 0;
    for (int64_t step = 1; step <= 30; step++) {
      const Update update{{{0, 0}, {1e-2, 0}}, 1, 1, step};
      const auto losses = train(session, in, &update);
      last = losses[0] + losses[1];
      if (step == 1) first = last;
    }
    EXPECT(last < 0.98f * first, "from ", first, " to ", last);
  });
  test_case("layers that the hidden states leave out keep gradients of 0", [] {
    Model model;
    Session session(model.options);
    attach(session, {"text_encoder"});
    train(session, joined(batch(false, 1), encoded(false, 5)));
    const auto gradients = session.read("gradients");
    const size_t half = gradients.size() / 2;  // of the last of two layers
    for (size_t i = half; i < gradients.size(); i++) EXPECT(gradients[i] == 0, gradients[i]);
    EXPECT(std::any_of(gradients.begin(), gradients.begin() + static_cast<int64_t>(half), [](float g) { return g != 0; }), "no gradients");
  });
  test_case("a step that encodes its text computes blocks again to the same bits, in less memory", [] {
    Model model(true);
    std::vector<std::vector<float>> found;
    std::vector<size_t> bytes;
    for (const bool recompute : {false, true}) {
      model.options.recompute = recompute;
      Session session(model.options);
      attach(session, {"unet", "text_encoder", "text_encoder_2"});
      const Inputs in = joined(batch(true, 1), encoded(true, 5));
      bytes.push_back(session.plan(ProgramKey::step(input_shapes(in))).activations);
      found.push_back(train(session, in));
      found.push_back(session.read("gradients"));
    }
    EXPECT(found[0] == found[2] && found[1] == found[3], "other bits");
    EXPECT(bytes[1] < bytes[0], bytes[1], " instead of ", bytes[0], " bytes");
  });
  // In bf16 the weights are copies, which go when the steps that read them are done with.
  for (const DType precision : {DType::f32, DType::bf16})
    test_case(text("a step that is given its text leaves the encoders' adapters as they are, in ", name_of(precision)), [=] {
      Model model(true, Device::cpu, precision);
      Session session(model.options);
      attach(session, {"unet", "text_encoder", "text_encoder_2"});
      const Inputs tokens = encoded(true, 5), context = precomputed(session, model.options, tokens);
      const Inputs with_tokens = joined(batch(true, 1), tokens), with_context = joined(batch(true, 1), context);
      const auto loss = train(session, with_tokens);
      session.clear("gradients");
      EXPECT(train(session, with_context) == loss, "another loss");
      const auto gradients = session.read("gradients");
      Session taking(model.options);
      attach(taking, {"unet"});
      for (size_t i = taking.parameter_count(); i < gradients.size(); i++) EXPECT(gradients[i] == 0, gradients[i]);
      EXPECT(train(session, with_tokens) == loss, "another loss once it encodes again");
      session.load(with_tokens);
      EXPECT(train(session, with_context).size() == loss.size(), "no loss of the batch that was loaded first");
      session.step({1, 1});
      EXPECT(session.losses() == loss, "another loss of the batch that was loaded second");
      EXPECT(floats(precomputed(session, model.options, tokens).at("context")) == floats(context.at("context")), "another text");
    });
  test_case("inputs of a step that encodes its text are refused by name", [] {
    Model model(true);
    Session session(model.options);
    attach(session, {"unet", "text_encoder_2"});
    const Inputs right = joined(batch(true, 1), encoded(true, 5));
    const auto refused = [&](const char* name, const std::function<void(Inputs&)>& change) {
      Inputs in = right;
      change(in);
      try {
        session.load(in);
      } catch (const Error& e) {
        EXPECT((e.code() == "ARGUMENT_INVALID" || e.code() == "SHAPE_MISMATCH") && std::string(e.what()).find(name) != std::string::npos,
               e.what());
        return;
      }
      throw Failure(text("a batch with another ", name, " was loaded"));
    };
    for (const auto& [name, tensor] : encoded(true, 5)) {
      refused(name.c_str(), [&](Inputs& in) { in.erase(name); });
      refused(name.c_str(), [&](Inputs& in) { in[name] = normal(tensor.shape, 1); });
      refused(name.c_str(), [&](Inputs& in) { std::get<std::vector<int32_t>>(in[name].data)[1] = 40; });
      refused(name.c_str(), [&](Inputs& in) { in[name] = ids({3, 4, 1}, 1, 2); });
    }
    refused("pooled", [](Inputs& in) { in["context"] = normal({2, 6, 20}, 1); });
    refused("text_encoder_2.rows", [](Inputs& in) { in["text_encoder_2.rows"] = ids({2, 5}, 1, 2); });
    session.load(right);
  });
  test_case("the plan of a step that encodes its text counts the encoders' weights, mapped as the files have them", [] {
    Model model(true);
    for (const auto& [name, network] : model.options.networks) EXPECT(network.files.size() == 1, name);
    Session session(model.options);
    const auto planned = [&](const std::vector<std::string>& networks, const Inputs& text) {
      attach(session, networks);
      return session.plan(ProgramKey::step(input_shapes(joined(batch(true, 1), text))));
    };
    Inputs context = {{"context", normal({2, 6, 20}, 1)}, {"pooled", normal({2, 6}, 1)}};
    const MemoryPlan without = planned({"unet"}, context), with = planned({"unet", "text_encoder"}, encoded(true, 5));
    size_t bytes = 0;
    for (const char* name : {"text_encoder", "text_encoder_2"})
      for (const WeightEntry& e : model.options.networks.at(name).files[0].entries) {
        const bool left_out = name == std::string("text_encoder") &&
                              (e.name.find("layers.1.") != std::string::npos || e.name.find("final") != std::string::npos);
        if (!left_out) bytes += e.shape.elements() * sizeof(float);
      }
    EXPECT(with.weights - without.weights == bytes, with.weights - without.weights, " bytes of text encoders instead of ", bytes);
    EXPECT(with.mapped - without.mapped == bytes, with.mapped - without.mapped, " of them mapped");
    EXPECT(with.adapters > without.adapters && with.activations > without.activations, "no more adapters or activations");
  });
}

}  // namespace lorafuse::test
