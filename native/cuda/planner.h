// The half of the CUDA backend that plans: it needs to know a GPU, but not to have it.
#pragma once
#include "kernels.h"

namespace lorafuse::cuda {

class Planner : public Backend {
 public:
  explicit Planner(const Gpu& gpu) : gpu_(gpu) {}

  bool reads_host_memory() const override { return false; }
  FuseOptions fusions() const override { return {.lora = true, .geglu = true, .weight_grads = true}; }
  size_t workspace_bytes(const Graph& graph, const Node& node) const override;

 protected:
  const Gpu gpu_;
};

}  // namespace lorafuse::cuda
