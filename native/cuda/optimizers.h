// An update of the adapters on the GPU: formulas, order and rounding of cpu/optimizers.cc.
#pragma once
#include <cuda_runtime_api.h>

#include "../graph/optimizers.h"

namespace lorafuse::cuda {

constexpr int kMostNumbers = 12;

// In the GPU's memory, so that a captured update takes the numbers of each step.
struct UpdateMemory {
  struct Numbers {
    double max_grad_norm, loss_scale;
    int64_t losses;  // that wait
    float of_group[ParameterGroup::kMost][kMostNumbers];
  } numbers;
  double sums[1024];  // of squares, one for each block
};

UpdateMemory::Numbers update_numbers(const Optimizer& optimizer, const Update& update, int64_t losses);
void update(cudaStream_t stream, const Optimizer& optimizer, const Trained& trained, float* norm, const float* losses, const Tensor& latest,
            UpdateMemory* memory);

}  // namespace lorafuse::cuda
