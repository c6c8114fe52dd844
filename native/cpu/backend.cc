// The CPU backend: memory is the host's, weights are read where they lie, each node runs its kernel.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "../graph/lowering.h"
#include "gemm.h"
#include "optimizers.h"
#include "winograd.h"

namespace lorafuse::cpu {
namespace {

struct Calls : CapturedGraph {
  const std::function<void()> body;
  explicit Calls(std::function<void()> body) : body(std::move(body)) {}
  void replay() override { body(); }
};

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(int threads) : threads_(threads) {}

  std::string describe() const override { return text("the CPU, ", threads_.count(), " threads"); }
  int threads() const override { return threads_.count(); }
  bool computes_in(DType activations) const override { return activations == DType::f32; }
  bool reads_host_memory() const override { return true; }
  void* allocate(size_t bytes) override {
    // calloc's pages are the system's zeros: nothing is taken before it is written. Where its block begins stands before what is returned.
    void* block = std::calloc(1, aligned(bytes) + kAlignment);
    CHECK(block, "OUT_OF_MEMORY", "Expected ", bytes, " bytes of memory but the system has no more");
    const auto begin = reinterpret_cast<uintptr_t>(block);
    auto** memory = reinterpret_cast<void**>(begin + kAlignment - begin % kAlignment);
    memory[-1] = block;
    return memory;
  }
  void release(void* memory) override {
    if (memory) std::free(static_cast<void**>(memory)[-1]);
  }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void prefetch(void* to, const void* from, size_t bytes, const Event*) override { std::memcpy(to, from, bytes); }
  std::unique_ptr<Event> record_event() override { return nullptr; }  // each call is done when it returns
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void fill(void* memory, unsigned char byte, size_t bytes) override { std::memset(memory, byte, bytes); }

  FuseOptions fusions() const override { return {}; }
  size_t workspace_bytes(const Graph& graph, const Node& node) const override {
    const std::vector<Shape> shapes = graph.shapes(node.inputs);
    return std::visit(
        [&]<class AnyOp>(const AnyOp& op) -> size_t {
          if constexpr (kIsProduct<AnyOp>) {
            size_t bytes = threads_.count() * kPackBytes;
            if constexpr (is_one_of<AnyOp, Conv2d, ConvTranspose2d>)
              if (const auto fast = winograd(op, shapes[0], shapes[1])) return fast->workspace_bytes(threads_.count());
            if constexpr (requires { op.epilogue; }) bytes += dy_bytes(op.epilogue.gate, shapes.back(), DType::f32);
            return bytes;
          } else if constexpr (kHasWorkspace<AnyOp>) return cpu::workspace_bytes(op, shapes, threads_.count());
          else return 0;
        },
        node.op);
  }

  void run(const Node& node, const std::vector<Tensor>& tensors, void* workspace) override { run_node(node, tensors, threads_, workspace); }

  std::unique_ptr<CapturedGraph> capture(std::function<void()> body) override { return std::make_unique<Calls>(std::move(body)); }

  void set(const Optimizer& optimizer, const Update& update, int64_t losses) override {
    optimizer_ = optimizer;
    update_ = update;
    losses_ = losses;
  }
  void update(const Optimizer&, const Trained& trained, float* norm, const float* losses, const Tensor& latest) override {
    const auto finite = [](const float* values, int64_t count) {
      return std::all_of(values, values + count, [](float x) { return std::isfinite(x); });
    };
    const bool trainable = finite(losses, losses_) && finite(latest.f32(), latest.shape.elements());
    *norm = trainable ? cpu::update(threads_, optimizer_, update_, trained) : NAN;
  }

 private:
  Threads threads_;
  Optimizer optimizer_;
  Update update_;
  int64_t losses_ = 0;  // how many an update looks at
};

}  // namespace

void run_node(const Node& node, std::span<const Tensor> tensors, Threads& threads, void* workspace) {
  std::visit(
      [&]<class AnyOp>(const AnyOp& op) {
        Context context{{node, tensors}, threads, kHasWorkspace<AnyOp> ? workspace : nullptr};
        run(op, context);
      },
      node.op);
}

}  // namespace lorafuse::cpu

extern "C" __attribute__((visibility("default"))) lorafuse::Backend* lorafuse_create_backend(int threads) {
  return new lorafuse::cpu::CpuBackend(threads);
}
