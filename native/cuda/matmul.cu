#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void run(const MatMul&, Context&) { throw Error("NOT_IMPLEMENTED", "MatMul"); }
size_t workspace_bytes(const MatMul&, std::span<const Value>, const Card&) { return 0; }
void run(const WeightGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "WeightGrad"); }
size_t workspace_bytes(const WeightGrad&, std::span<const Value>, const Card&) { return 0; }

}  // namespace lorafuse::cuda
