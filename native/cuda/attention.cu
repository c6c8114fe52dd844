#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void run(const Attention&, Context&) { throw Error("NOT_IMPLEMENTED", "Attention"); }
size_t workspace_bytes(const Attention&, std::span<const Value>, const Card&) { return 0; }
void run(const AttentionGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "AttentionGrad"); }
size_t workspace_bytes(const AttentionGrad&, std::span<const Value>, const Card&) { return 0; }

}  // namespace lorafuse::cuda
