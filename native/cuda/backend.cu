// The CUDA backend: one GPU, one stream for kernels and one for copies to it, pinned staging, a CUDA graph for what is replayed.
#include <algorithm>
#include <cstring>
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#endif

#include "optimizers.h"
#include "planner.h"
#include "runtime.h"

namespace lorafuse::cuda {
namespace {

constexpr int kOldest = 75;                     // Turing: the first with ldmatrix and mma.m16n8k8
constexpr int kBuilt[] = {__CUDA_ARCH_LIST__};  // 750, 800, …: the code in this library
constexpr size_t kStaging = size_t{8} << 20;    // bytes of each of two pinned buffers

cudaDeviceProp properties() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  const std::string why = status == cudaErrorInsufficientDriver ? text("NVIDIA's driver is not there, or too old for CUDA ",
                                                                       CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10)
                          : status == cudaSuccess               ? "the driver lists no device"
                                                                : cudaGetErrorString(status);
  CHECK(status == cudaSuccess && devices > 0, "NO_DEVICE", "Expected a CUDA GPU but found none: ", why);
  cudaDeviceProp p{};
  CUDA(cudaGetDeviceProperties(&p, 0));
  CHECK(p.major * 10 + p.minor >= kOldest, "NO_DEVICE", "Expected a GPU of compute capability 7.5 or newer but found ", p.name, ", ",
        p.major, ".", p.minor);
  return p;
}

class Stream {
 public:
  Stream() { CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaEvent : public Event {
 public:
  CudaEvent() { CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~CudaEvent() override { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Host memory that copies run from and to, in two halves so that filling one overlaps with copying the other.
class Staging {
 public:
  Staging() { CUDA(cudaMallocHost(reinterpret_cast<void**>(&memory_), 2 * kStaging)); }
  ~Staging() { cudaFreeHost(memory_); }
  Staging(const Staging&) = delete;

  // A half that no copy uses any more. Call record() once a copy from or to it is issued.
  unsigned char* next() {
    current_ ^= 1;
    CUDA(cudaEventSynchronize(free_[current_]));
    return memory_ + current_ * kStaging;
  }
  void record(cudaStream_t copies) { CUDA(cudaEventRecord(free_[current_], copies)); }

 private:
  unsigned char* memory_ = nullptr;
  CudaEvent free_[2];
  int current_ = 0;
};

// Names what is launched while it lives, for Nsight Systems.
class Range {
 public:
#if __has_include(<nvtx3/nvToolsExt.h>)
  explicit Range(const std::string& name) { nvtxRangePushA(name.c_str()); }
  ~Range() { nvtxRangePop(); }
#else
  explicit Range(const std::string&) {}
#endif
  Range(const Range&) = delete;
};

class CudaGraph : public CapturedGraph {
 public:
  CudaGraph(cudaStream_t stream, const std::function<void()>& body) : stream_(stream) {
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      body();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    CUDA(cudaStreamEndCapture(stream, &graph));
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
  }
  ~CudaGraph() override {
    cudaStreamSynchronize(stream_);
    cudaGraphExecDestroy(executable_);
  }
  void replay() override { CUDA(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaBackend : public Planner {
 public:
  explicit CudaBackend(const cudaDeviceProp& p)
      : Planner({p.major * 10 + p.minor, p.multiProcessorCount}),
        description_(text(p.name, ", compute capability ", p.major, ".", p.minor, ", ", p.totalGlobalMem >> 20, " MiB")) {
    CUDA(cudaMalloc(reinterpret_cast<void**>(&update_memory_), sizeof(UpdateMemory)));
  }
  ~CudaBackend() override { cudaFree(update_memory_); }

  std::string describe() const override { return description_; }
  // Kernels for bf16 are empty below sm_80 (device.cuh): the GPU must run code of a newer one.
  bool computes_in(DType activations) const override {
    const auto runs_here = [&](int built) { return built >= 800 && built <= 10 * gpu_.compute_capability; };
    return activations != DType::bf16 || std::ranges::any_of(kBuilt, runs_here);
  }

  size_t available_bytes() const override {
    size_t free = 0, total = 0;
    CUDA(cudaMemGetInfo(&free, &total));
    return free;
  }

  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, std::max<size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is not sticky: what there is stays usable
      size_t free = 0, total = 0;
      CUDA(cudaMemGetInfo(&free, &total));
      throw Error("OUT_OF_MEMORY", text("Expected ", bytes, " bytes of memory on the GPU but only ", free, " of its ", total, " are free"));
    }
    check(status, "cudaMalloc");
    CUDA(cudaMemsetAsync(memory, 0, bytes, kernels_));
    CUDA(cudaStreamSynchronize(kernels_));  // prefetch() does not wait for kernels_
    return memory;
  }
  void release(void* memory) override { cudaFree(memory); }  // waits for the GPU

  void upload(void* to, const void* from, size_t bytes) override {
    CUDA(cudaEventRecord(computed_, kernels_));
    prefetch(to, from, bytes, &computed_);
  }

  // Kernels issued later wait for the copy.
  void prefetch(void* to, const void* from, size_t bytes, const Event* after) override {
    if (after) CUDA(cudaStreamWaitEvent(copies_, static_cast<const CudaEvent&>(*after), 0));
    for (size_t done = 0; done < bytes; done += kStaging) {
      const size_t count = std::min(kStaging, bytes - done);
      unsigned char* half = staging_.next();
      std::memcpy(half, static_cast<const unsigned char*>(from) + done, count);
      CUDA(cudaMemcpyAsync(static_cast<unsigned char*>(to) + done, half, count, cudaMemcpyHostToDevice, copies_));
      staging_.record(copies_);
    }
    CUDA(cudaEventRecord(copied_, copies_));
    CUDA(cudaStreamWaitEvent(kernels_, copied_, 0));
  }

  std::unique_ptr<Event> record_event() override {
    auto event = std::make_unique<CudaEvent>();
    CUDA(cudaEventRecord(*event, kernels_));
    return event;
  }

  void copy(void* to, const void* from, size_t bytes) override {
    CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, kernels_));
  }

  void download(void* to, const void* from, size_t bytes) override {
    for (size_t done = 0; done < bytes; done += kStaging) {
      const size_t count = std::min(kStaging, bytes - done);
      unsigned char* half = staging_.next();
      CUDA(cudaMemcpyAsync(half, static_cast<const unsigned char*>(from) + done, count, cudaMemcpyDeviceToHost, kernels_));
      CUDA(cudaStreamSynchronize(kernels_));
      std::memcpy(static_cast<unsigned char*>(to) + done, half, count);
    }
  }

  void fill(void* memory, unsigned char byte, size_t bytes) override { CUDA(cudaMemsetAsync(memory, byte, bytes, kernels_)); }

  void run(const Node& node, const std::vector<Tensor>& tensors, void* workspace) override {
    const Range range(text(name_of(node.op), " ", node.layer));
    run_node(node, tensors, gpu_, kernels_, workspace);
  }

  std::unique_ptr<CapturedGraph> capture(std::function<void()> body) override { return std::make_unique<CudaGraph>(kernels_, body); }

  void set(const Optimizer& optimizer, const Update& update, int64_t losses) override {
    const UpdateMemory::Numbers numbers = update_numbers(optimizer, update, losses);
    upload(&update_memory_->numbers, &numbers, sizeof(numbers));
  }
  void update(const Optimizer& optimizer, const Trained& trained, float* norm, const float* losses, const Tensor& latest) override {
    cuda::update(kernels_, optimizer, trained, norm, losses, latest, update_memory_);
  }

 private:
  std::string description_;
  Stream kernels_, copies_;
  CudaEvent computed_, copied_;
  Staging staging_;
  UpdateMemory* update_memory_ = nullptr;
};

}  // namespace

void run_node(const Node& node, std::span<const Tensor> tensors, const Gpu& gpu, cudaStream_t stream, void* workspace) {
  std::visit(
      [&]<class AnyOp>(const AnyOp& op) {
        Context context{{node, tensors}, gpu, stream, kHasWorkspace<AnyOp> ? workspace : nullptr};
        run(op, context);
      },
      node.op);
}

}  // namespace lorafuse::cuda

extern "C" __attribute__((visibility("default"))) lorafuse::Backend* lorafuse_create_backend(int) {
  return new lorafuse::cuda::CudaBackend(lorafuse::cuda::properties());
}
