#include "session.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "library.h"

namespace lorafuse {
namespace {

std::string key_of(const char* kind, LatentShape s, int64_t tokens = 0) {
  return text(kind, " ", s.batch, "x", s.height, "x", s.width, " ", tokens);
}

constexpr int64_t kResults = 1024;  // an update's norm and the losses that may wait

void expect_size(const char* name, size_t received, int64_t expected) {
  CHECK(static_cast<int64_t>(received) == expected, "INVALID_ARGUMENT", "Expected ", expected, " elements for ", name, " but received ",
        received);
}

std::shared_ptr<Backend> open_backend(const SessionOptions& o) {
  return o.device == Device::cuda ? open_cuda_backend() : open_cpu_backend(o.threads);
}

Weights::Held held_as(const SessionOptions& o, DType matrices) {
  if (o.device == Device::cuda) return {matrices, DType::f32};
  return {matrices == DType::f32 ? std::nullopt : std::optional(matrices), std::nullopt};
}

}  // namespace

Session::Session(SessionOptions options)
    : options_(std::move(options)), backend_(open_backend(options_)),
      dtype_(options_.device == Device::cuda ? options_.precision : DType::f32),
      unet_frozen_(*backend_, held_as(options_, options_.precision)),
      text_encoder_frozen_(*backend_, held_as(options_, options_.precision)), vae_frozen_(*backend_, held_as(options_, DType::f32)) {
  CHECK(backend_->computes_in(dtype_), "PRECISION_UNSUPPORTED", "Expected fp16 or f32 for precision, as this GPU does not compute in ",
        name_of(dtype_));
  for (const WeightFile& f : options_.unet_files) unet_frozen_.weights.add(f.path, f.entries);
  for (const WeightFile& f : options_.text_encoder_files) text_encoder_frozen_.weights.add(f.path, f.entries);
  for (const WeightFile& f : options_.vae_files) vae_frozen_.weights.add(f.path, f.entries);
}

Session::~Session() {
  free_adapters();
  free_arena();
  for (const Block& block : blocks_)
    if (block.memory) backend_->release(block.memory);
}

void Session::free_adapters() {
  const auto release = [&](float*& memory) {
    if (memory) backend_->release(memory);
    memory = nullptr;
  };
  std::for_each(memory_.begin(), memory_.end(), release);
  release(results_);
}

void Session::free_arena() {
  if (arena_) backend_->release(arena_);
  arena_ = nullptr;
  arena_bytes_ = 0;
}

std::vector<LinearLayer> Session::modules() {
  Builder b(unet_frozen_.weights);
  const UNetConfig& config = options_.unet;
  const int64_t side = int64_t{1} << (config.block_out_channels.size() - 1);
  unet(b, config, b.input("latents", {1, side, side, config.in_channels}), b.input("timesteps", {1}),
       b.input("context", {1, 1, config.cross_attention_dim}));
  std::vector<LinearLayer> found;
  for (const LinearLayer& layer : b.linears)
    if (layer.path.find(".attentions.") != std::string::npos) found.push_back(layer);
  return found;
}

void Session::attach(const std::vector<Adapter>& adapters) {
  std::map<std::string, LinearLayer> layers;
  for (const LinearLayer& layer : modules()) layers[layer.path] = layer;
  Adapters attached;
  std::map<std::string, int64_t> offsets;
  int64_t count = 0;
  for (const Adapter& a : adapters) {
    const auto layer = layers.find(a.path);
    CHECK(layer != layers.end(), "UNKNOWN_MODULE", "Expected the path of a layer of this UNet's attention blocks but received ", a.path);
    CHECK(a.rank > 0, "INVALID_RANK", "Expected a rank of at least 1 for ", a.path, " but received ", a.rank);
    CHECK(attached.emplace(a.path, a).second, "UNKNOWN_MODULE", "Expected each layer once but received ", a.path, " twice");
    offsets[a.path + ".down"] = count;
    count += a.rank * layer->second.in_features;
    offsets[a.path + ".up"] = count;
    count += a.rank * layer->second.out_features;
  }
  loaded_.clear();
  losses_.clear();
  pending_ = 0;
  programs_.clear();
  free_adapters();
  adapters_.clear();  // none, should there be no memory for the new ones
  parameters_ = 0;
  for (float*& memory : memory_) memory = static_cast<float*>(backend_->allocate(count * sizeof(float)));
  results_ = static_cast<float*>(backend_->allocate(kResults * sizeof(float)));
  adapters_ = std::move(attached);
  parameter_offsets_ = std::move(offsets);
  parameters_ = count;
}

std::vector<float> Session::read_adapters(AdapterBuffer which) {
  std::vector<float> data(parameters_);
  if (parameters_) backend_->download(data.data(), buffer(which), parameters_ * sizeof(float));
  return data;
}

void Session::write_adapters(AdapterBuffer which, const float* data, int64_t count) {
  expect_size("adapters", count, parameters_);
  if (parameters_) backend_->upload(buffer(which), data, parameters_ * sizeof(float));
}

Tensor Session::bind(Frozen& frozen, const Value& value) {
  if (value.storage == Storage::weight) return frozen.get(value);
  const auto which = value.storage == Storage::parameter ? AdapterBuffer::weights : AdapterBuffer::gradients;
  return {buffer(which) + parameter_offsets_.at(value.name), DType::f32, value.shape};
}

Builder Session::builder(Frozen& frozen) const {
  return Builder(frozen.weights, &frozen == &unet_frozen_ ? adapters_ : Adapters{}, &frozen == &vae_frozen_ ? DType::f32 : dtype_);
}

Program Session::build(Frozen& frozen, const std::function<ValueId(Builder&)>& network) {
  Builder b = builder(frozen);
  b.graph.results = {network(b)};
  return Program(*backend_, fuse(b.graph, backend_->fusions()), [this, &frozen](const Value& v) { return bind(frozen, v); });
}

Program Session::build_train(LatentShape s, int64_t tokens) {
  CHECK(parameters_ > 0, "NO_ADAPTERS", "Expected adapters to train but none are attached");
  const UNetConfig& config = options_.unet;
  Builder b = builder(unet_frozen_);
  const Shape latents{s.batch, s.height, s.width, config.in_channels};
  const ValueId noise = b.input("noise", latents);
  const ValueId noisy = b.emit(AddNoise{}, {b.input("latents", latents), noise, b.input("coefficients", {s.batch, 2})});
  const ValueId context = b.input("context", {s.batch, tokens, config.cross_attention_dim}, dtype_);
  const ValueId prediction = unet(b, config, noisy, b.input("timesteps", {s.batch}), context);
  const ValueId loss = b.emit(MseLoss{}, {prediction, noise, b.input("weights", {s.batch})});
  b.graph.results = {loss};
  return Program(*backend_, fuse(gradients(b.graph, loss), backend_->fusions()), [this](const Value& v) { return bind(unet_frozen_, v); });
}

Program& Session::cached(const std::string& key, const std::function<Program()>& make) {
  const auto found = programs_.find(key);
  return found != programs_.end() ? found->second : programs_.emplace(key, make()).first->second;
}

void Session::place(Frozen& frozen, Program& program) {
  if (program.arena_bytes() > arena_bytes_) {
    free_arena();
    arena_ = backend_->allocate(program.arena_bytes());
    arena_bytes_ = program.arena_bytes();
  }
  frozen.place(program.graph());
  program.place(arena_);
}

std::vector<float> Session::run(Frozen& frozen, Program& program, std::initializer_list<std::pair<const char*, const void*>> inputs) {
  place(frozen, program);
  for (const auto& [name, data] : inputs) program.write(name, data);
  program.run();
  std::vector<float> result(program.result_shape(0).elements());
  program.read(0, result.data());
  return result;
}

MemoryPlan Session::memory_plan(LatentShape shape, int64_t tokens) {
  const Program& program = cached(key_of("train", shape, tokens), [&] { return build_train(shape, tokens); });
  MemoryPlan plan;
  for (const Value& v : program.graph().values)
    if (v.storage == Storage::weight) plan.weights += v.bytes();
  plan.adapters = parameters_ * sizeof(float) * memory_.size();
  plan.workspace = program.workspace_bytes();
  plan.activations = program.arena_bytes() - plan.workspace + blocks_.size() * program.input_bytes() + kResults * sizeof(float);
  return plan;
}

std::vector<float> Session::encode_text(const std::vector<int32_t>& ids, int64_t count, int skip) {
  CHECK(options_.text_encoder, "MODEL_INCOMPLETE", "Expected a text encoder but this session was opened without one");
  const TextEncoderConfig& config = *options_.text_encoder;
  CHECK(count > 0 && ids.size() % count == 0, "INVALID_ARGUMENT", "Expected ", count, " equal rows of token ids but received ", ids.size(),
        " ids");
  for (int32_t id : ids)
    CHECK(id >= 0 && id < config.vocab_size, "INVALID_ARGUMENT", "Expected token ids below ", config.vocab_size, " but received ", id);
  const int64_t length = static_cast<int64_t>(ids.size()) / count;
  Program& program = cached(text("text ", count, "x", length, " ", skip), [&] {
    return build(text_encoder_frozen_,
                 [&](Builder& b) { return text_encoder(b, config, b.input("ids", {count, length}, DType::i32), skip); });
  });
  return run(text_encoder_frozen_, program, {{"ids", ids.data()}});
}

std::vector<float> Session::encode_images(const std::vector<float>& pixels, LatentShape s) {
  CHECK(options_.vae, "MODEL_INCOMPLETE", "Expected a VAE but this session was opened without one");
  const Shape shape{s.batch, s.height, s.width, options_.vae->in_channels};
  expect_size("pixels", pixels.size(), shape.elements());
  Program& program = cached(key_of("encode", s), [&] {
    return build(vae_frozen_, [&](Builder& b) { return vae_encoder(b, *options_.vae, b.input("pixels", shape)); });
  });
  return run(vae_frozen_, program, {{"pixels", pixels.data()}});
}

std::vector<float> Session::decode_latents(const std::vector<float>& latents, LatentShape s) {
  CHECK(options_.vae, "MODEL_INCOMPLETE", "Expected a VAE but this session was opened without one");
  const Shape shape{s.batch, s.height, s.width, options_.vae->latent_channels};
  expect_size("latents", latents.size(), shape.elements());
  Program& program = cached(key_of("decode", s), [&] {
    return build(vae_frozen_, [&](Builder& b) { return vae_decoder(b, *options_.vae, b.input("latents", shape)); });
  });
  return run(vae_frozen_, program, {{"latents", latents.data()}});
}

std::vector<float> Session::predict(const std::vector<float>& latents, LatentShape s, const std::vector<float>& timesteps,
                                    const std::vector<float>& context) {
  const UNetConfig& config = options_.unet;
  const Shape shape{s.batch, s.height, s.width, config.in_channels};
  expect_size("latents", latents.size(), shape.elements());
  expect_size("timesteps", timesteps.size(), s.batch);
  const int64_t tokens = static_cast<int64_t>(context.size()) / (s.batch * config.cross_attention_dim);
  CHECK(tokens > 0, "INVALID_ARGUMENT", "Expected at least one token of context but received ", context.size(), " floats");
  expect_size("context", context.size(), s.batch * tokens * config.cross_attention_dim);
  Program& program = cached(key_of("predict", s, tokens), [&] {
    return build(unet_frozen_, [&](Builder& b) {
      return unet(b, config, b.input("latents", shape, dtype_), b.input("timesteps", {s.batch}),
                  b.input("context", {s.batch, tokens, config.cross_attention_dim}, dtype_));
    });
  });
  return run(unet_frozen_, program, {{"latents", latents.data()}, {"timesteps", timesteps.data()}, {"context", context.data()}});
}

// Training needs neither encoder: their programs, copies and pages go, and with them an arena larger than training's.
void Session::release_encoders() {
  const size_t before = programs_.size();
  std::erase_if(programs_, [](const auto& p) { return !p.first.starts_with("train") && !p.first.starts_with("predict"); });
  if (programs_.size() == before) return;
  text_encoder_frozen_.release();
  vae_frozen_.release();
  free_arena();
}

void Session::load(const StepInput& in) {
  const UNetConfig& config = options_.unet;
  CHECK(loaded_.size() < blocks_.size(), "INVALID_ARGUMENT", "Expected a step before a third batch is loaded");
  CHECK(in.shape.batch < kResults, "INVALID_ARGUMENT", "Expected a batch below ", kResults, " but received ", in.shape.batch);
  const int64_t batch = in.shape.batch, elements = batch * in.shape.height * in.shape.width * config.in_channels;
  expect_size("latents", in.latents.size(), elements);
  expect_size("noise", in.noise.size(), elements);
  expect_size("coefficients", in.coefficients.size(), 2 * batch);
  expect_size("timesteps", in.timesteps.size(), batch);
  expect_size("context", in.context.size(), batch * in.tokens * config.cross_attention_dim);
  release_encoders();
  Program& program = cached(key_of("train", in.shape, in.tokens), [&] { return build_train(in.shape, in.tokens); });
  Block& block = blocks_[loads_ % blocks_.size()];
  if (block.bytes < program.input_bytes()) {
    if (block.memory) backend_->release(std::exchange(block.memory, nullptr));
    block.bytes = 0;
    block.memory = backend_->allocate(program.input_bytes());
    block.bytes = program.input_bytes();
  }
  for (const auto& [name, data] : {std::pair("latents", &in.latents),
                                   {"noise", &in.noise},
                                   {"coefficients", &in.coefficients},
                                   {"timesteps", &in.timesteps},
                                   {"context", &in.context}})
    program.prefetch(block.memory, name, data->data(), block.taken.get());
  loaded_.push_back({in.shape, &program, &block});
  loads_++;
}

void Session::step(const std::vector<float>& weights, const AdamW* update) {
  CHECK(!loaded_.empty(), "INVALID_ARGUMENT", "Expected a batch to be loaded before a step");
  const auto [shape, program, inputs] = loaded_.front();
  expect_size("weights", weights.size(), shape.batch);
  loaded_.pop_front();
  place(unet_frozen_, *program);
  if (1 + pending_ + shape.batch > kResults) collect_losses();
  if (update) {
    AdamW options = *update;
    if (!std::all_of(losses_.begin(), losses_.end(), [](float loss) { return std::isfinite(loss); }))
      options.loss_scale = NAN;  // so is the norm
    backend_->set(options, pending_);
  }
  program->prefetch(inputs->memory, "weights", weights.data(), inputs->taken.get());
  program->take(inputs->memory);
  inputs->taken = backend_->mark();
  const Tensor& losses = program->result(0);
  if (update) program->run([this, latest = losses] { backend_->update(trained(), results_, results_ + 1, latest); });
  else program->run();
  backend_->copy(results_ + 1 + pending_, losses.data, losses.bytes());
  pending_ += shape.batch;
}

void Session::collect_losses() {
  losses_.resize(losses_.size() + pending_);
  if (pending_) backend_->download(losses_.data() + losses_.size() - pending_, results_ + 1, pending_ * sizeof(float));
  pending_ = 0;
}

std::vector<float> Session::losses() {
  collect_losses();
  return std::exchange(losses_, {});
}

float Session::norm() {
  CHECK(parameters_ > 0, "NO_ADAPTERS", "Expected adapters to train but none are attached");
  float norm = 0;
  backend_->download(&norm, results_, sizeof(norm));
  return norm;
}

}  // namespace lorafuse
