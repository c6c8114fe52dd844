// What computes: one interface, implemented by shared libraries that are opened at run time (train/library.cc).
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "graph.h"
#include "optimizers.h"

namespace lorafuse {

// Work that was issued once, to be issued again with the same memory.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
  virtual void replay() = 0;
};

// A point in the order of the calls.
class Event {
 public:
  virtual ~Event() = default;
};

// A GPU does its work in the order of the calls, which return before it is done; only download() waits.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string describe() const = 0;  // the processor or GPU, for people
  // Threads of the host that compute: fewer than were asked for where the system gives no more.
  virtual int threads() const { return 1; }
  virtual bool computes_in(DType activations) const = 0;
  // Whether kernels read host memory in place; if not, what they read has to be uploaded first.
  virtual bool reads_host_memory() const = 0;
  // Bytes that can still be allocated; SIZE_MAX where the system knows better.
  virtual size_t available_bytes() const { return SIZE_MAX; }
  virtual void* allocate(size_t bytes) = 0;  // zeroed, at a multiple of kAlignment; throws OUT_OF_MEMORY
  virtual void release(void* memory) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;  // `from` may change as soon as it returns
  // Asynchronous upload: may overlap everything issued after `after` (nullptr: everything), none of which may touch `to`. Later kernels
  // wait.
  virtual void prefetch(void* to, const void* from, size_t bytes, const Event* after) = 0;
  virtual std::unique_ptr<Event> record_event() = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;  // within its memory
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void fill(void* memory, unsigned char byte, size_t bytes) = 0;

  // What the backend asks of the graphs it is given.
  virtual FuseOptions fusions() const = 0;
  virtual size_t workspace_bytes(const Graph& graph, const Node& node) const = 0;
  // tensors[i] is value i of the graph; `workspace` has the bytes asked for above.
  virtual void run(const Node& node, const std::vector<Tensor>& tensors, void* workspace) = 0;
  // Captures the work that `body` issues, without running it: one CUDA graph.
  virtual std::unique_ptr<CapturedGraph> capture(std::function<void()> body) = 0;

  // The numbers of the updates issued later, and how many of the waiting `losses` they look at: not part of what is captured.
  virtual void set(const Optimizer& optimizer, const Update& update, int64_t losses) = 0;
  // norm: the global L2 norm of all gradients, unscaled; not finite where a waiting loss or one of the latest, [B], is not.
  // Weights and state move, and gradients become zero, only where it is finite.
  virtual void update(const Optimizer& optimizer, const Trained& trained, float* norm, const float* losses, const Tensor& latest) = 0;
};

// Memory of a backend, released with its owner.
class Memory {
 public:
  Memory() = default;
  Memory(Backend& backend, size_t bytes) : memory_(backend.allocate(bytes), {&backend}), bytes_(bytes) {}
  // At least so many bytes; what was there is lost.
  void reserve(Backend& backend, size_t bytes) {
    if (bytes <= bytes_) return;
    *this = {};
    *this = Memory(backend, bytes);
  }
  void* data() const { return memory_.get(); }
  float* f32() const { return static_cast<float*>(memory_.get()); }

 private:
  struct Release {
    Backend* backend;
    void operator()(void* memory) const { backend->release(memory); }
  };
  std::unique_ptr<void, Release> memory_;
  size_t bytes_ = 0;
};

// The one symbol a backend library exports, lorafuse_create_backend. Throws Error where the machine cannot run it.
using CreateBackend = Backend* (*)(int threads);

// A GPU that need not be there: plans are made for it.
struct PlannedGpu {
  int compute_capability;  // 75, 80, …
  int multiprocessors;
  size_t bytes;  // of its memory that may be allocated
};

// The CUDA library exports lorafuse_create_planner too, which needs neither GPU nor driver. The backend makes the plans that such a GPU's
// would make; what would have to run there throws GPU_PLANNED.
using CreatePlanner = Backend* (*)(const PlannedGpu& gpu);

}  // namespace lorafuse
