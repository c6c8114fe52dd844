#include "session.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <thread>

#include "debug.h"
#include "library.h"
#include "objective.h"

namespace lorafuse {
namespace {

constexpr const char* kTrained = "unet";  // the network that a step trains
constexpr int64_t kMostBatch = Trainables::kMostBatch, kResults = Trainables::kResults;
// Programs of functions, as of pictures of many sizes and prompts of many lengths. Beyond them all go at once: making those anew that are
// still wanted takes a moment.
constexpr std::ptrdiff_t kMostPrograms = 32;

Weights::StorageTypes storage_types(const SessionOptions& o, const NetworkOptions& network) {
  const DType matrices = network.has_f32_activations() ? DType::f32 : o.precision;
  if (o.device == Device::cuda) return {matrices, DType::f32};
  return {matrices == DType::f32 ? std::nullopt : std::optional(matrices), std::nullopt};
}

// More threads than processors only wait for each other.
SessionOptions with_threads(SessionOptions options) {
  const auto processors = static_cast<int>(std::thread::hardware_concurrency());  // 0: not known
  if (processors > 0) options.threads = std::min(options.threads, processors);
  return options;
}

std::shared_ptr<Backend> open_backend(const SessionOptions& options) {
  if (options.device == Device::cpu) return open_cpu_backend(options.threads, cpu_variant(options.precision));
  return options.gpu ? open_cuda_planner(*options.gpu) : open_cuda_backend();
}

}  // namespace

Session::Part::Part(const std::string& name, const NetworkOptions& network, const SessionOptions& session, Backend& backend)
    : options(network), dtype(session.device == Device::cuda && !network.has_f32_activations() ? session.precision : DType::f32),
      frozen(name, backend, storage_types(session, network), session.threads) {
  for (const WeightFile& file : network.files) frozen.weights.add(file.path, file.entries);
}

Session::Session(SessionOptions options)
    : options_(with_threads(std::move(options))), backend_(open_backend(options_)), f32_backend_(backend_) {
  const bool rounds = options_.device == Device::cpu && cpu_variant(options_.precision) != cpu_variant();
  const auto is_all_f32 = [](const auto& network) { return network.second.is_all_f32(); };
  if (rounds && std::ranges::any_of(options_.networks, is_all_f32)) f32_backend_ = open_cpu_backend(options_.threads, cpu_variant());
  const DType computes = options_.device == Device::cuda ? options_.precision : DType::f32;
  CHECK(backend_->computes_in(computes), "PRECISION_UNSUPPORTED", "Expected fp16 or f32 for precision, as this GPU does not compute in ",
        name_of(computes));
  for (const auto& [name, network] : options_.networks) parts_.try_emplace(name, name, network, options_, *backend_);
  for (const auto& text : options_.text) {
    const Part& encoder = part(text.network);
    CHECK(encoder.options.architecture == "clip", "ARGUMENT_INVALID", "Expected a text encoder for text but received ", text.network,
          ", a ", encoder.options.architecture);
    const Part& trained = part(kTrained);
    CHECK(encoder.dtype == trained.dtype && encoder.options.is_all_f32() == trained.options.is_all_f32(), "ARGUMENT_INVALID",
          "Expected the precision of ", kTrained, " for ", text.network, ", which a step computes with it, but received f32");
    const auto same = [&](const auto& other) { return other.network == text.network; };
    CHECK(std::count_if(options_.text.begin(), options_.text.end(), same) == 1, "ARGUMENT_INVALID",
          "Expected each network once for text but ", "received ", text.network, " twice");
  }
}

Session::Part& Session::part(const std::string& network) {
  const auto found = parts_.find(network);
  CHECK(found != parts_.end(), "MODEL_INCOMPLETE", "Expected a network ", network, " but this session was opened without one");
  return found->second;
}

// ---- graphs ----

Network Session::network(const std::string& name, const Adapters& adapters) {
  const Part& p = part(name);
  return {name, &p.options.config, &p.frozen.weights, &adapters};
}

Builder Session::builder(const std::string& name, const Adapters& adapters, const Shapes& shapes) {
  return Builder(network(name, adapters), part(name).dtype, shapes);
}

std::vector<TextEncoder> Session::text_encoders() {
  std::vector<TextEncoder> encoders;
  bool adapted = false;
  for (const auto& [name, states] : options_.text) {
    const Adapters& adapters = part(name).adapters;
    adapted |= !adapters.empty();
    encoders.push_back({network(name, adapters), states});
  }
  return adapted ? encoders : std::vector<TextEncoder>{};
}

// With the layers of a network that can carry adapters, and the graph that holds them, for the smallest inputs.
Builder Session::layers_builder(const std::string& network, const Adapters& adapters) {
  Builder b = builder(network, adapters);
  if (const NetworkFunction* function = adaptable_function(part(network).options.architecture)) function->build(b, {});
  return b;
}

std::vector<Layer> Session::layers(const std::string& network) { return layers_builder(network, {}).layers; }

std::pair<Graph, ValueId> Session::forward_step(const ProgramKey& key) {
  CHECK(parameter_count() > 0 && trainables_.optimizer(), "NO_ADAPTERS",
        "Expected adapters and an optimizer to train with but none are attached");
  Builder b = builder(kTrained, part(kTrained).adapters, key.shapes);
  // Text that is given is not encoded.
  const ValueId loss = training_loss(b, key.shapes.contains("context") ? std::vector<TextEncoder>{} : text_encoders());
  b.graph.results = {loss};
  return {std::move(b.graph), loss};
}

Graph Session::graph(const ProgramKey& key, const Recompute& recompute) {
  if (key.is_step()) {
    const auto [forward, loss] = forward_step(key);
    return gradients(forward, loss, recompute);
  }
  Builder b = builder(key.network, part(key.network).adapters, key.shapes);
  b.graph.results = find_function(part(key.network).options.architecture, key.function).build(b, key.settings);
  return std::move(b.graph);
}

Program Session::make_program(const ProgramKey& key, const Recompute& recompute) {
  Graph g = graph(key, recompute);
  check_names(g, key.shapes, key.is_step() ? kSampleWeights : "");
  Backend& backend = backend_of(key.is_step() ? kTrained : key.network);
  return Program(backend, fuse(g, backend.fusions()), [this](const Value& v) { return bind(v); });
}

Program& Session::program(const ProgramKey& key) {
  const auto found = programs_.find(key);
  if (found != programs_.end()) return found->second;
  const auto is_function = [](const auto& p) { return !p.first.is_step(); };
  const auto functions = std::count_if(programs_.begin(), programs_.end(), is_function);
  if (!key.is_step() && functions >= kMostPrograms) std::erase_if(programs_, is_function);
  Program& made = programs_.emplace(key, make_program(key, options_.recompute)).first->second;
  debug(key.is_step() ? "step" : key.network + "." + key.function, made);
  return made;
}

Tensor Session::bind(const Value& value) {
  if (value.storage == Storage::weight) return part(value.network).frozen.get(value);
  return trainables_.bind(value);
}

// ---- adapters ----

std::vector<Parameter> Session::attach(const std::vector<AdapterSpec>& adapters, std::optional<Optimizer> optimizer) {
  std::map<std::string, Adapters> of_networks;
  std::map<std::string, std::map<std::string, Layer>> known;
  for (const AdapterSpec& spec : adapters) {
    auto& layers_of = known[spec.network];
    if (layers_of.empty())
      for (const Layer& layer : layers(spec.network)) layers_of[layer.path] = layer;
    const auto layer = layers_of.find(spec.path);
    CHECK(layer != layers_of.end(), "MODULE_UNKNOWN", "Expected the path of a layer of the ", spec.network, " but received ", spec.path);
    std::visit([&](const auto& kind) { check(kind, layer->second); }, spec.adapter.kind);
    CHECK(of_networks[spec.network].emplace(spec.path, spec.adapter).second, "MODULE_UNKNOWN", "Expected each layer once but received ",
          spec.path, " twice");
  }
  std::vector<Parameter> parameters;
  for (const auto& [network, of_network] : of_networks) {
    const Builder built = layers_builder(network, of_network);
    for (const Value& v : built.graph.values)
      if (v.storage == Storage::parameter) parameters.push_back({v.network, v.name, v.shape, v.group});
  }
  std::stable_sort(parameters.begin(), parameters.end(), [](const Parameter& a, const Parameter& b) { return a.group < b.group; });

  loaded_.clear();
  losses_.clear();
  pending_ = 0;
  programs_.clear();
  // No adapters, should there be no memory for the new ones.
  for (auto& [name, p] : parts_) p.adapters.clear();
  trainables_ = {};
  trainables_ = Trainables(*backend_, parameters, std::move(optimizer));
  for (auto& [network, of_network] : of_networks) part(network).adapters = std::move(of_network);
  return parameters;
}

// ---- running ----

MemoryPlan Session::plan(const ProgramKey& key, const std::optional<Recompute>& recompute) {
  return plan(make_program(key, recompute.value_or(options_.recompute)), key.is_step());
}

MemoryPlan Session::plan(const Program& program, bool is_step) {
  MemoryPlan plan;
  for (const Value& v : program.graph().values) {
    if (v.storage != Storage::weight) continue;
    const bool on_host = backend_->reads_host_memory();
    plan.weights += on_host ? v.bytes() : aligned(v.bytes());
    if (on_host && part(v.network).frozen.weights.in_place(v.name, v.dtype, v.form)) plan.mapped += v.bytes();
  }
  for (const BufferSpec& spec : buffers()) plan.adapters += spec.count * size_of(spec.dtype);
  plan.program = program.host_bytes();
  plan.workspace = program.workspace_bytes();
  plan.activations = program.arena_bytes() - plan.workspace;
  if (is_step) plan.activations += blocks_.size() * program.input_bytes() + kResults * sizeof(float);
  return plan;
}

std::optional<size_t> Session::fit(const Shapes& shapes, size_t bytes, size_t programs) {
  CHECK(loaded_.empty(), "ARGUMENT_INVALID", "Expected no batch to be loaded before it is chosen what is computed again");
  const auto [forward, loss] = forward_step(ProgramKey::step(shapes));
  Backend& backend = backend_of(kTrained);
  const auto chosen = cheapest_recompute(forward, loss, [&](const Graph& step) {
    const MemoryPlan planned = plan(Program(backend, fuse(step, backend.fusions()), {}), true);
    return planned.total() + programs * planned.program <= bytes;
  });
  if (!chosen) return std::nullopt;
  options_.recompute = *chosen;
  std::erase_if(programs_, [](const auto& p) { return p.first.is_step(); });
  return chosen->all ? region_names(forward, &Node::block).size() : chosen->names.size();
}

Description Session::describe(const ProgramKey& key) { return lorafuse::describe(make_program(key, options_.recompute)); }

void Session::place(Program& program) {
  arena_.reserve(*backend_, program.arena_bytes());
  for (auto& [name, p] : parts_) p.frozen.place(program.graph());
  program.place(arena_.data());
}

void Session::check_weights() const {
  if (!backend_->reads_host_memory()) return;  // they were uploaded
  for (const auto& [name, p] : parts_) p.frozen.weights.check();
}

std::vector<HostTensor> Session::run(const std::string& network, const std::string& function, const Inputs& inputs,
                                     const Config& settings) {
  Program& p = program({network, function, input_shapes(inputs), settings});
  check_data(p.graph(), inputs);
  place(p);
  for (const auto& [name, tensor] : inputs) p.write(name, tensor.bytes());
  run_program(p);
  check_weights();
  std::vector<HostTensor> results;
  for (size_t i = 0; i < p.graph().results.size(); i++) {
    std::vector<float> result(p.result_shape(i).elements());
    p.read(i, result.data());
    results.push_back({p.result_shape(i), std::move(result)});
  }
  return results;
}

// ---- training ----

// Networks that neither the step nor one that is loaded reads are done with: programs that do, copies and pages go, and with them an arena
// larger than the step's.
Program& Session::step_program(const Shapes& shapes) {
  Program& step = program(ProgramKey::step(shapes));
  std::set<std::string> used = step.networks();
  for (const Loaded& loaded : loaded_) used.insert(loaded.program->networks().begin(), loaded.program->networks().end());
  const auto reads_another = [&](const auto& p) { return !std::ranges::includes(used, p.second.networks()); };
  if (std::erase_if(programs_, reads_another) == 0) return step;
  for (auto& [name, p] : parts_)
    if (!used.contains(name)) p.frozen.release();
  arena_ = {};
  return step;
}

void Session::prepare(const Shapes& shapes) { place(step_program(shapes)); }

void Session::load(const Inputs& inputs) {
  CHECK(loaded_.size() < blocks_.size(), "ARGUMENT_INVALID", "Expected a step before a third batch is loaded");
  Program& p = step_program(input_shapes(inputs));
  check_data(p.graph(), inputs);
  const int64_t batch = p.result_shape(0)[0];
  CHECK(batch <= kMostBatch, "ARGUMENT_INVALID", "Expected a batch of at most ", kMostBatch, " but received ", batch);
  Block& block = blocks_[loads_ % blocks_.size()];
  block.memory.reserve(*backend_, p.input_bytes());
  for (const auto& [name, tensor] : inputs) p.prefetch(block.memory.data(), name, tensor.bytes(), block.taken.get());
  loaded_.push_back({&p, &block, batch});
  loads_++;
}

void Session::step(const std::vector<float>& weights, const Update* update, Profile* profile) {
  CHECK(!loaded_.empty(), "ARGUMENT_INVALID", "Expected a batch to be loaded before a step");
  const auto [program, inputs, batch] = loaded_.front();
  const Trained& trained = trainables_.trained();
  CHECK(static_cast<int64_t>(weights.size()) == batch, "ARGUMENT_INVALID", "Expected ", batch, " elements for weights but received ",
        weights.size());
  if (update)
    CHECK(update->groups.size() >= trained.group_ends.size(), "ARGUMENT_INVALID", "Expected ", trained.group_ends.size(),
          " groups for an update but received ", update->groups.size());
  place(*program);
  loaded_.pop_front();
  if (1 + pending_ + batch > kResults) collect_losses();
  if (update) {
    Update numbers = *update;
    if (!std::all_of(losses_.begin(), losses_.end(), [](float loss) { return std::isfinite(loss); }))
      numbers.loss_scale = NAN;  // so is the norm
    backend_->set(*trainables_.optimizer(), numbers, pending_);
  }
  program->prefetch(inputs->memory.data(), kSampleWeights, weights.data(), inputs->taken.get());
  program->take(inputs->memory.data());
  inputs->taken = backend_->record_event();
  const Tensor& losses = program->result(0);
  std::function<void()> end;
  float *norm = trainables_.results(), *waiting = norm + 1;
  if (update)
    end = [=, this, latest = losses] {
      check_weights();
      backend_->update(*trainables_.optimizer(), trainables_.trained(), norm, waiting, latest);
    };
  run_program(*program, std::move(end), profile ? &profile->times : nullptr);
  if (profile) profile->nodes = lorafuse::describe(*program).nodes;
  if (!update) check_weights();
  backend_->copy(waiting + pending_, losses.data, losses.bytes());
  pending_ += batch;
}

void Session::collect_losses() {
  losses_.resize(losses_.size() + pending_);
  if (pending_) backend_->download(losses_.data() + losses_.size() - pending_, trainables_.results() + 1, pending_ * sizeof(float));
  pending_ = 0;
}

std::vector<float> Session::losses() {
  collect_losses();
  return std::exchange(losses_, {});
}

float Session::norm() {
  CHECK(trainables_.optimizer(), "NO_ADAPTERS", "Expected adapters and an optimizer to train with but none are attached");
  float norm = 0;
  backend_->download(&norm, trainables_.results(), sizeof(norm));
  return norm;
}

}  // namespace lorafuse
