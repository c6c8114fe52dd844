// A session owns networks' frozen weights, adapters, optimizer state and the arena, and one program for each thing it was asked to compute.
// Its methods are called from one thread at a time.
#pragma once
#include <array>
#include <deque>
#include <span>
#include <tuple>

#include "../model/networks.h"
#include "description.h"
#include "frozen.h"
#include "inputs.h"
#include "speeds.h"
#include "trainables.h"

namespace lorafuse {

struct WeightFile {
  std::string path;
  std::vector<WeightEntry> entries;
};

struct NetworkOptions {
  std::string architecture;  // model/networks.cc
  Config config;
  std::vector<WeightFile> files;
  // What is f32 whatever the precision, as SDXL's VAE overflows in f16: activations (on a GPU the weights too), or the operands of the
  // CPU's products as well.
  enum class F32 { none, activations, all } f32 = F32::none;
  bool has_f32_activations() const { return f32 != F32::none; }
  bool is_all_f32() const { return f32 == F32::all; }
};

enum class Device { cpu, cuda };

struct SessionOptions {
  Device device = Device::cpu;
  // The device is this GPU, which need not be there: the session plans and describes as on it, and what would run throws GPU_PLANNED.
  std::optional<PlannedGpu> gpu{};
  int threads = 1;
  // On a GPU: the type of activations and weight matrices. On the CPU, whose activations are f32: of weight matrices; f32: as the file has
  // them. bf16 chooses the library (library.h).
  DType precision = DType::f32;
  Recompute recompute;  // of a step, in its backward
  std::map<std::string, NetworkOptions> networks;
  // How a step makes its text where one of these networks has adapters, unless it is given `context`, and `pooled`, as any other step is.
  struct TextOptions {
    std::string network;
    TextStates states;
  };
  std::vector<TextOptions> text{};
};

struct AdapterSpec {
  std::string network, path;
  Adapter adapter;
};

struct MemoryPlan {
  size_t weights = 0, adapters = 0, activations = 0, workspace = 0;
  size_t mapped = 0;   // the part of `weights` that kernels read in the mapped files
  size_t program = 0;  // of this machine's memory, besides; a session keeps the programs of its steps
  size_t total() const { return weights + adapters + activations + workspace; }
};

// What the nodes of a step do, and what they and the update took.
struct Profile {
  std::vector<Description::Work> nodes;
  Program::Times times;
};

// What a program computes. A training step has neither network nor function.
struct ProgramKey {
  std::string network, function;
  Shapes shapes;
  Config settings;
  bool operator<(const ProgramKey& other) const {
    return std::tie(network, function, shapes, settings) < std::tie(other.network, other.function, other.shapes, other.settings);
  }
  static ProgramKey step(Shapes shapes) { return {.network = {}, .function = {}, .shapes = std::move(shapes), .settings = {}}; }
  bool is_step() const { return function.empty(); }
};

class Session {
 public:
  explicit Session(SessionOptions options);
  Session(const Session&) = delete;

  // How many threads there are: no more than processors, and than the system gives.
  int threads() const { return options_.device == Device::cpu ? std::min(backend_->threads(), f32_backend_->threads()) : options_.threads; }
  std::vector<Layer> layers(const std::string& network);

  // Parameters in the order of the buffers: that of the graph, group after group. Throws MODULE_UNKNOWN or RANK_INVALID and changes nothing
  // then. Without an optimizer only the weights have a buffer.
  std::vector<Parameter> attach(const std::vector<AdapterSpec>& adapters, std::optional<Optimizer> optimizer = std::nullopt);
  // weights, gradients, then the optimizer's.
  const std::vector<BufferSpec>& buffers() const { return trainables_.buffers(); }
  int64_t parameter_count() const { return trainables_.trained().count(); }
  void read(const std::string& buffer, std::span<float> to) { trainables_.read(*backend_, buffer, to); }
  std::vector<float> read(const std::string& buffer) { return trainables_.read(*backend_, buffer); }
  void clear(const std::string& buffer) { trainables_.clear(*backend_, buffer); }  // to zeros
  void write(const std::string& buffer, std::span<const float> data) { trainables_.write(*backend_, buffer, data); }

  // recompute: of a step, if not as the session does.
  MemoryPlan plan(const ProgramKey& key, const std::optional<Recompute>& recompute = std::nullopt);
  // From now on steps compute as few blocks again as it takes for one of these shapes, and so many programs, to plan for no more than
  // `bytes`. Returns how many blocks and parts; nothing, and changes nothing, if that is not enough with all of them either.
  std::optional<size_t> fit(const Shapes& shapes, size_t bytes, size_t programs = 0);
  // What a program of this key would do and hold.
  Description describe(const ProgramKey& key);
  Speeds speeds() { return measure_speeds(*backend_, backend_->reads_host_memory() ? DType::f32 : options_.precision); }
  size_t available_bytes() const { return backend_->available_bytes(); }

  // The results of a function of a network.
  std::vector<HostTensor> run(const std::string& network, const std::string& function, const Inputs& inputs, const Config& settings = {});

  // Training. On a GPU load() and step() return at once: the next batch is loaded while the one before it is computed.
  // What a step of these shapes needs, placed ahead of the first one.
  void prepare(const Shapes& shapes);
  void load(const Inputs& inputs);
  // Forward and backward of the oldest loaded batch. With `update`, an optimizer step over all gradients accumulated since the last one
  // follows. With `profile`, node by node, each of which is waited for: the same bits, but slower.
  void step(const std::vector<float>& weights, const Update* update = nullptr, Profile* profile = nullptr);
  std::vector<float> losses();  // of the steps since the last call
  float norm();                 // of the last update's gradients; where it is not finite the update changed nothing

 private:
  // A network of the session, with its weights and adapters.
  struct Part {
    const NetworkOptions& options;
    const DType dtype;  // of its activations
    Frozen frozen;
    Adapters adapters;
    Part(const std::string& name, const NetworkOptions& options, const SessionOptions& session, Backend& backend);
  };

  Part& part(const std::string& network);
  // What computes a network's programs.
  Backend& backend_of(const std::string& network) { return part(network).options.is_all_f32() ? *f32_backend_ : *backend_; }
  Network network(const std::string& name, const Adapters& adapters);
  // The encoders of a step's text; none where it is an input.
  std::vector<TextEncoder> text_encoders();
  Builder builder(const std::string& network, const Adapters& adapters, const Shapes& shapes = {});
  Builder layers_builder(const std::string& network, const Adapters& adapters);
  std::pair<Graph, ValueId> forward_step(const ProgramKey& key);  // and its loss
  Graph graph(const ProgramKey& key, const Recompute& recompute);
  MemoryPlan plan(const Program& program, bool is_step);
  Program make_program(const ProgramKey& key, const Recompute& recompute);
  Program& program(const ProgramKey& key);
  Program& step_program(const Shapes& shapes);
  void place(Program& program);
  // Throws if kernels have read weights that the files no longer have.
  void check_weights() const;
  Tensor bind(const Value& value);
  void collect_losses();

  // Inputs of a batch, outside the arena.
  struct Block {
    Memory memory;
    std::unique_ptr<Event> taken;  // when it was last read
  };
  // A batch that waits for its step. The batch after next reuses its block.
  struct Loaded {
    Program* program;
    Block* inputs;
    int64_t batch;
  };

  SessionOptions options_;
  std::shared_ptr<Backend> backend_, f32_backend_;  // the latter of networks that are all f32; the same unless bf16 chose another library
  std::map<std::string, Part> parts_;
  Trainables trainables_;
  int64_t pending_ = 0;        // losses that were not collected yet
  std::vector<float> losses_;  // collected ones
  std::array<Block, 2> blocks_;
  size_t loads_ = 0;
  std::deque<Loaded> loaded_;
  std::map<ProgramKey, Program> programs_;
  Memory arena_;
};

}  // namespace lorafuse
