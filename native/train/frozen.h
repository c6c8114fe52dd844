// The frozen weights of one network, where the backend's kernels read them: in host memory, or in blocks on the GPU.
#pragma once
#include <span>

#include "../base/weights.h"
#include "../graph/backend.h"

namespace lorafuse {

class Frozen {
 public:
  Frozen(std::string network, Backend& backend, Weights::StorageTypes types, int threads)
      : weights(types), network_(std::move(network)), backend_(backend), threads_(threads) {}

  Weights weights;

  // Places those of the graph's weights that are this network's and not placed yet, on a GPU in one allocation. Throws OUT_OF_MEMORY,
  // and as Weights::check().
  void place(const Graph& graph);
  Tensor get(const Value& weight);  // after place()
  // Frees what was placed.
  void release();

 private:
  Tensor convert(const Value& weight) { return weights.get(weight.name, weight.dtype, weight.shape, weight.form); }
  void convert(std::span<const Value* const> values);

  const std::string network_;
  Backend& backend_;
  const int threads_;
  std::vector<Memory> blocks_;  // one unless programs read different weights
  std::map<std::string, Tensor> placed_;
};

}  // namespace lorafuse
