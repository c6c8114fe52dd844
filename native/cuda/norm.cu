#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void run(const GroupNorm&, Context&) { throw Error("NOT_IMPLEMENTED", "GroupNorm"); }
size_t workspace_bytes(const GroupNorm&, std::span<const Value>, const Card&) { return 0; }
void run(const GroupNormGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "GroupNormGrad"); }
size_t workspace_bytes(const GroupNormGrad&, std::span<const Value>, const Card&) { return 0; }
void run(const LayerNorm&, Context&) { throw Error("NOT_IMPLEMENTED", "LayerNorm"); }
void run(const LayerNormGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "LayerNormGrad"); }

}  // namespace lorafuse::cuda
