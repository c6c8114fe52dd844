// The frozen weights of one network, where the backend's kernels read them: in host memory, or in one block on the GPU.
#pragma once
#include "../base/weights.h"
#include "../graph/backend.h"

namespace lorafuse {

class Frozen {
 public:
  Frozen(Backend& backend, Weights::Held held) : weights(held), backend_(backend) {}
  ~Frozen() { free_blocks(); }
  Frozen(const Frozen&) = delete;
  Frozen& operator=(const Frozen&) = delete;

  Weights weights;

  // Brings what the graph reads and is not there yet: one allocation. Throws OUT_OF_MEMORY.
  void place(const Graph& graph);
  Tensor get(const Value& weight);  // after place()
  // Frees what was placed.
  void release();

 private:
  void free_blocks();

  Backend& backend_;
  std::vector<void*> blocks_;  // one unless programs read different weights
  std::map<std::string, Tensor> placed_;
};

}  // namespace lorafuse
