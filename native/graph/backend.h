// What computes: one interface, implemented by shared libraries that are opened at run time (train/library.cc).
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "graph.h"

namespace lorafuse {

struct AdamW {  // torch.optim.AdamW (arXiv:1711.05101, algorithm 2)
  double learning_rate = 1e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 1e-2;
  double max_grad_norm = 1;  // 0 = no clipping (torch.nn.utils.clip_grad_norm_)
  double loss_scale = 1;     // what the gradients are multiplied by (torch.amp.GradScaler)
  int64_t step = 1;          // counts from 1
};

// What an update moves: arrays of `count` each.
struct Trained {
  float *weights, *gradients, *first_moment, *second_moment;
  int64_t count;
};

// Work that is issued again and again with the same memory.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

// A point in the order of the calls.
class Mark {
 public:
  virtual ~Mark() = default;
};

// Calls return before a GPU has done its work; it is done in the order of the calls. Only download() waits for it.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string describe() const = 0;  // the processor or GPU, for people
  virtual bool computes_in(DType activations) const = 0;
  // Whether kernels read host memory in place; if not, what they read has to be uploaded first.
  virtual bool reads_host_memory() const = 0;
  virtual void* allocate(size_t bytes) = 0;  // zeroed, 64-byte aligned; throws OUT_OF_MEMORY
  virtual void release(void* memory) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;  // `from` may change as soon as it returns
  // The same beside what was issued after a mark, none of which uses `to`; after nothing: beside all of it.
  virtual void prefetch(void* to, const void* from, size_t bytes, const Mark* after) = 0;
  virtual std::unique_ptr<Mark> mark() = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;  // within its memory
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void fill(void* memory, unsigned char byte, size_t bytes) = 0;

  // What the backend asks of the graphs it is given.
  virtual FuseOptions fusions() const = 0;
  virtual size_t workspace_bytes(const Graph& graph, const Node& node) const = 0;
  // tensors[i] is value i of the graph; `workspace` has the bytes asked for above.
  virtual void run(const Node& node, const std::vector<Tensor>& tensors, void* workspace) = 0;
  // The runs that `body` makes, to be replayed: one CUDA graph. Nothing runs before replay().
  virtual std::unique_ptr<Recording> record(std::function<void()> body) = 0;

  // What the updates issued later do, and how many of the waiting `losses` they look at: not part of a recording.
  virtual void set(const AdamW& options, int64_t losses) = 0;
  // norm: the global L2 norm of all gradients, unscaled, or not finite where a loss is not: one of those that wait or of the latest, [B].
  // Weights and moments move and gradients become zero only where it is finite.
  virtual void update(const Trained& trained, float* norm, const float* losses, const Tensor& latest) = 0;
};

// The one symbol a backend library exports. Throws Error where the machine cannot run it.
using CreateBackend = Backend* (*)(int threads);

}  // namespace lorafuse
