// What computes: one interface, implemented by shared libraries that are opened at run time (train/library.cc).
#pragma once
#include <memory>
#include <string>

#include "graph.h"

namespace lorafuse {

struct AdamW {  // torch.optim.AdamW (arXiv:1711.05101, algorithm 2)
  double learning_rate = 1e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 1e-2;
  double max_grad_norm = 1;  // 0 = no clipping (torch.nn.utils.clip_grad_norm_)
  int64_t step = 1;         // counts from 1
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual void* allocate(size_t bytes) = 0;  // zeroed, 64-byte aligned; throws OUT_OF_MEMORY
  virtual void release(void* memory) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  // Where kernels may read a frozen weight that lies in host memory: the CPU reads it in place.
  virtual void* place(const Tensor& weight) = 0;

  virtual size_t workspace_bytes(const Graph& graph, const Node& node) const = 0;
  // tensors[i] is value i of the graph; `workspace` has the bytes asked for above.
  virtual void run(const Node& node, const std::vector<Tensor>& tensors, void* workspace) = 0;

  // The global L2 norm of all gradients; weights and moments move and gradients become zero only where it is finite.
  virtual float update(const AdamW& options, float* weights, float* gradients, float* first, float* second, int64_t count) = 0;
};

// The one symbol a backend library exports.
using CreateBackend = Backend* (*)(int threads);

}  // namespace lorafuse
