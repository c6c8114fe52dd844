// Plans for a GPU that need not be there: memory has addresses, but nothing is behind them.
#include "planner.h"

#include <algorithm>
#include <cstdint>
#include <map>

namespace lorafuse::cuda {

size_t Planner::workspace_bytes(const Graph& graph, const Node& node) const {
  std::vector<Value> inputs;
  for (ValueId v : node.inputs) inputs.push_back(graph.values[v]);
  return std::visit(
      [&]<class AnyOp>(const AnyOp& op) -> size_t {
        if constexpr (kHasWorkspace<AnyOp>) return cuda::workspace_bytes(op, std::span<const Value>(inputs), gpu_);
        else return 0;
      },
      node.op);
}

namespace {

[[noreturn]] void refuse() {
  throw Error("GPU_PLANNED", "Expected a GPU to compute on, but this session only plans for one; open it without gpu");
}

class PlannedBackend : public Planner {
 public:
  explicit PlannedBackend(const PlannedGpu& gpu) : Planner({gpu.compute_capability, gpu.multiprocessors}), bytes_(gpu.bytes) {}

  std::string describe() const override {
    return text("planned, compute capability ", gpu_.compute_capability / 10, ".", gpu_.compute_capability % 10, ", ", bytes_ >> 20,
                " MiB free");
  }
  bool computes_in(DType activations) const override { return activations != DType::bf16 || gpu_.compute_capability >= 80; }
  size_t available_bytes() const override { return bytes_ - std::min(bytes_, held_bytes_); }

  // More than there is, too: the plan says how much that is.
  void* allocate(size_t bytes) override {
    void* const memory = reinterpret_cast<void*>(next_);
    next_ += aligned(std::max<size_t>(bytes, 1));
    held_[memory] = bytes;
    held_bytes_ += bytes;
    return memory;
  }
  void release(void* memory) override {
    const auto held = held_.find(memory);
    held_bytes_ -= held->second;
    held_.erase(held);
  }

  void upload(void*, const void*, size_t) override { refuse(); }
  void prefetch(void*, const void*, size_t, const Event*) override { refuse(); }
  std::unique_ptr<Event> record_event() override { refuse(); }
  void copy(void*, const void*, size_t) override { refuse(); }
  void download(void*, const void*, size_t) override { refuse(); }
  void fill(void*, unsigned char, size_t) override { refuse(); }
  void run(const Node&, const std::vector<Tensor>&, void*) override { refuse(); }
  std::unique_ptr<CapturedGraph> capture(std::function<void()>) override { refuse(); }
  void set(const Optimizer&, const Update&, int64_t) override { refuse(); }
  void update(const Optimizer&, const Trained&, float*, const float*, const Tensor&) override { refuse(); }

 private:
  const size_t bytes_;
  uintptr_t next_ = kAlignment;
  std::map<void*, size_t> held_;
  size_t held_bytes_ = 0;
};

}  // namespace
}  // namespace lorafuse::cuda

extern "C" __attribute__((visibility("default"))) lorafuse::Backend* lorafuse_create_planner(const lorafuse::PlannedGpu& gpu) {
  return new lorafuse::cuda::PlannedBackend(gpu);
}
