// Times a training step of Stable Diffusion 1.5 or XL with random weights, and each of its ops, on the GPU.
// With --roofline nothing runs: what each op would take on a 2080 Ti at its peaks, from its floating-point operations and bytes.
//   gpu_check bench [--roofline] [--size 512] [--batch 1] [--rank 16] [--targets all|attention] [--precision fp16|bf16|f32] [--steps 20]
//   [--zeros]
//     [--ops | --nodes]
// --zeros: weights that are all zero, on no disk: for counting on the emulator. --ops: the table of ops too; --nodes: a line for each node,
// in order.
//   --model sd15|sdxl: SDXL at 1024 pixels unless --size is given. --convolutions: adapters on them, too. --recompute: blocks are computed
//   again for their gradients; --fit MiB: no more of them than it takes to plan for so much memory.
#include "bench.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <tuple>

#include "../native/arrays.h"
#include "../native/checkpoint.h"
#include "graph/cost.h"
#include "train/library.h"
#include "train/program.h"

namespace lorafuse::test {
namespace {

struct Settings {
  int64_t size = 512, batch = 1, rank = 16, steps = 20;
  bool sdxl = false;
  bool all = true, zeros = false, ops = false, nodes = false, roofline = false, convolutions = false, recompute = false;
  double fit_mib = 0;
  DType precision = DType::f16;
};

Settings parsed(const std::vector<std::string>& arguments) {
  Settings s;
  int64_t size = 0;
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& name = arguments[i];
    if (name == "--zeros") s.zeros = true;
    else if (name == "--ops") s.ops = true;
    else if (name == "--nodes") s.ops = s.nodes = true;
    else if (name == "--roofline") s.roofline = s.zeros = true;
    else if (name == "--convolutions") s.convolutions = true;
    else if (name == "--recompute") s.recompute = true;
    else {
      CHECK(i + 1 < arguments.size(), "ARGUMENT_INVALID", "Expected a value after ", name);
      const std::string value = arguments[++i];
      if (name == "--model") {
        CHECK(value == "sd15" || value == "sdxl", "ARGUMENT_INVALID", "Expected --model sd15 or sdxl but received ", value);
        s.sdxl = value == "sdxl";
      } else if (name == "--fit") s.fit_mib = std::stod(value);
      else if (name == "--size") size = std::stoll(value);
      else if (name == "--batch") s.batch = std::stoll(value);
      else if (name == "--rank") s.rank = std::stoll(value);
      else if (name == "--steps") s.steps = std::stoll(value);
      else if (name == "--targets") s.all = value == "all";
      else if (name == "--precision") s.precision = value == "fp16" ? DType::f16 : value == "bf16" ? DType::bf16 : DType::f32;
      else throw Error("ARGUMENT_INVALID", "Expected an option of bench but received " + name);
    }
  }
  s.size = size ? size : s.sdxl ? 1024 : 512;
  return s;
}

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// The op, its shapes.
std::string described(const Graph& graph, const Node& node) {
  std::string s = name_of(node.op);
  for (size_t i = 0; i < std::min<size_t>(node.inputs.size(), 2); i++) s += (i ? " x " : " ") + graph.shape(node.inputs[i]).str();
  return s;
}

// Bytes of a step, as planned.
struct Bytes {
  size_t weights = 0, adapters = 0, activations = 0, workspace = 0;
  explicit Bytes(const Program& step) : activations(step.arena_bytes() - step.workspace_bytes()), workspace(step.workspace_bytes()) {
    for (const Value& v : step.graph().values) {
      if (v.storage == Storage::weight) weights += v.bytes();
      // Gradients and both moments are as large as the adapters.
      if (v.storage == Storage::parameter || v.storage == Storage::gradient) adapters += 2 * v.bytes();
    }
  }
  size_t all() const { return weights + adapters + activations + workspace; }
};

class Bench {
 public:
  explicit Bench(const Settings& s)
      : settings_(s), config_(s.sdxl ? sdxl_unet() : sd15_unet()), weights_(Weights::StorageTypes{s.precision, DType::f32}),
        backend_(open_cuda_backend()) {
    const Layout layout = unet_layout(config_, DType::f16);
    weights_.add(write_sparse(folder_.file("unet"), layout).path, layout.entries);  // for names and shapes alone
    auto layers = adaptable(weights_, config_, s.convolutions);
    if (!s.all)
      std::erase_if(layers, [](const Layer& l) {
        return l.path.find(".attentions.") != std::string::npos && l.path.find(".attn") == std::string::npos;
      });
    layers_ = layers.size();
    const Graph forward = train_graph(weights_, config_, adapters_for(layers, s.rank), {s.batch, s.size / 8, s.size / 8}, 77, s.precision);
    Recompute recompute = s.recompute;
    if (s.fit_mib > 0) {
      const auto fits = [&](const Graph& step) {
        return mib(Bytes(Program(*backend_, fuse(step, backend_->fusions()), {})).all()) <= s.fit_mib;
      };
      const auto found = cheapest_recompute(forward, forward.results[0], fits);
      CHECK(found, "MEMORY_INSUFFICIENT", "Expected a step that plans for ", s.fit_mib, " MiB at most but none does");
      recompute = *found;
    }
    blocks_again_ = recompute.names.size();
    graph_ = fuse(gradients(forward, forward.results[0], recompute), backend_->fusions());
  }
  ~Bench() {
    program_.reset();
    for (void* m : memory_) backend_->release(m);
  }

  void run() {
    std::printf("%s\n%s, %lld px, batch %lld, rank %lld on %s %zu layers, %s; %zu ops\n", backend_->describe().c_str(),
                settings_.sdxl ? "SDXL" : "SD1.5", static_cast<long long>(settings_.size), static_cast<long long>(settings_.batch),
                static_cast<long long>(settings_.rank), settings_.all ? "all" : "q, k, v and out,", layers_, name_of(settings_.precision),
                graph_.nodes.size());
    if (settings_.roofline) print_roofline();
    plan();
    if (settings_.roofline) return;
    place();
    std::vector<float> losses(settings_.batch);
    double best = INFINITY, total = 0;
    for (int64_t step = 0; step < settings_.steps; step++) {
      const double begin = now_ms();
      program_->run();
      program_->read(0, losses.data());
      if (step < 3 && settings_.steps > 3) continue;  // runs node by node, records, settles
      total += now_ms() - begin;
      best = std::min(best, now_ms() - begin);
    }
    const auto timed = static_cast<double>(std::max<int64_t>(settings_.steps > 3 ? settings_.steps - 3 : settings_.steps, 1));
    std::printf("step: mean %.2f ms, best %.2f ms\n", total / timed, best);
    if (settings_.ops) time_ops();
  }

 private:
  void* allocate(size_t bytes) {
    memory_.push_back(nullptr);
    return memory_.back() = backend_->allocate(bytes);
  }

  // Normal numbers that keep the scale of what goes through: one block of them over and over, as SDXL's weights are 5 GB.
  void upload_random(const Value& v, unsigned char* to) {
    constexpr int64_t kBlock = 1048573;  // a prime, so that no two rows begin alike
    const bool vector = v.shape.rank() == 1, is_gamma = vector && v.name.find("norm") != std::string::npos && v.name.ends_with(".weight");
    const float scale = vector ? 0.1f : 1 / std::sqrt(static_cast<float>(v.shape.elements() / v.shape[-2])), shift = is_gamma ? 1 : 0;
    auto& block = blocks_[{v.dtype, scale, shift}];
    if (block.empty()) block = stored(v.dtype, Random(1).normals(kBlock, scale, shift));
    for (size_t at = 0; at < v.bytes(); at += block.size()) backend_->upload(to + at, block.data(), std::min(block.size(), v.bytes() - at));
  }

  // What will be taken, before any of it is.
  void plan() {
    program_.emplace(*backend_, graph_, [this](const Value& v) {
      Tensor t{allocate(v.bytes()), v.dtype, v.shape};
      if (v.storage == Storage::weight && !settings_.zeros) {
        upload_random(v, static_cast<unsigned char*>(t.data));
      } else if (v.storage == Storage::parameter) {
        const auto values = Random(7).normals(v.shape.elements(), 0.02f);
        backend_->upload(t.data, values.data(), v.bytes());
      }
      return t;
    });
    const Bytes m(*program_);
    std::printf("memory: weights %.0f MiB, adapters and moments %.0f, activations %.0f, workspace %.0f, all %.0f MiB\n", mib(m.weights),
                mib(m.adapters), mib(m.activations), mib(m.workspace), mib(m.all()));
    if (blocks_again_ > 0) std::printf("%zu blocks and parts of blocks are computed again\n", blocks_again_);
    std::fflush(stdout);
  }

  void place() {
    arena_ = allocate(program_->arena_bytes());
    program_->place(arena_);
    for (const Value& v : graph_.values)
      if (v.storage == Storage::input) {
        std::vector<float> data = Random(3).normals(v.shape.elements());
        if (v.name == "time_ids") data.assign(data.size(), static_cast<float>(settings_.size));
        if (v.name == "timesteps") data.assign(data.size(), 500);
        if (v.name == "coefficients") data.assign(data.size(), 0.7f);
        if (v.name == "weights") data.assign(data.size(), 1024);
        program_->write(v.name, data.data());
      }
  }

  void print_roofline() {
    constexpr double kFlops = 53.8e12, kBytes = 616e9;  // a second: tensor cores with f32 sums, and memory, of an RTX 2080 Ti
    struct Row {
      int count = 0;
      double gflop = 0, mib = 0, ms = 0;
    };
    std::map<std::string, Row> rows;
    Row all;
    for (const Node& node : graph_.nodes) {
      const Cost cost = cost_of(graph_, node);
      const double ms = 1e3 * std::max(cost.flops / kFlops, static_cast<double>(cost.bytes) / kBytes);
      for (Row* row : {&rows[name_of(node.op)], &all})
        row->count++, row->gflop += cost.flops * 1e-9, row->mib += mib(cost.bytes), row->ms += ms;
    }
    rows["all"] = all;
    std::printf("| op | count | GFLOP | MiB | ms at the peaks |\n|---|---|---|---|---|\n");
    for (const auto& [name, r] : rows) std::printf("| %s | %d | %.1f | %.0f | %.2f |\n", name.c_str(), r.count, r.gflop, r.mib, r.ms);
  }

  // Milliseconds that a node takes, run alone several times.
  double time_node(size_t node) {
    constexpr int kTimes = 10;
    const auto run = [&](int times) {
      const double begin = now_ms();
      for (int i = 0; i < times; i++) program_->run_node(node);
      char last;
      backend_->download(&last, arena_, 1);
      return now_ms() - begin;
    };
    run(1);
    const double once = run(1);
    return (run(1 + kTimes) - once) / kTimes;
  }

  // Each node alone, by kind and shapes: milliseconds, and what the GPU reached.
  void time_ops() {
    struct Row {
      double ms = 0, gflop = 0, mib = 0;
      int count = 0;
    };
    std::map<std::string, Row> rows;
    for (size_t i = 0; i < graph_.nodes.size(); i++) {
      const Cost cost = cost_of(graph_, graph_.nodes[i]);
      Row& row = rows[described(graph_, graph_.nodes[i])];
      row.count++;
      row.gflop += cost.flops * 1e-9;
      row.mib += mib(cost.bytes);
      const double ms = time_node(i);
      row.ms += ms;
      if (settings_.nodes)
        std::printf("%s\t%.0f FLOP\t%zu bytes\t%.4f ms\n", described(graph_, graph_.nodes[i]).c_str(), cost.flops, cost.bytes, ms);
    }
    if (settings_.nodes) return;
    std::printf("%-72s %5s %9s %9s %9s %9s\n", "op", "count", "ms", "TFLOP/s", "GB/s", "GFLOP");
    for (const auto& [name, r] : rows)
      std::printf("%-72s %5d %9.3f %9.2f %9.1f %9.2f\n", name.c_str(), r.count, r.ms, r.gflop / r.ms, r.mib * 1.048576 / r.ms, r.gflop);
  }

  Settings settings_;
  Config config_;
  TemporaryFolder folder_;
  Weights weights_;
  size_t layers_ = 0, blocks_again_ = 0;
  std::map<std::tuple<DType, float, float>, std::vector<unsigned char>> blocks_;  // of random numbers, by type, scale and mean
  std::shared_ptr<Backend> backend_;
  Graph graph_;
  std::vector<void*> memory_;
  std::optional<Program> program_;
  void* arena_ = nullptr;
};

}  // namespace

void bench(const std::vector<std::string>& arguments) { Bench(parsed(arguments)).run(); }

}  // namespace lorafuse::test
