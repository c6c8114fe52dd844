#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void run(const Conv2d&, Context&) { throw Error("NOT_IMPLEMENTED", "Conv2d"); }
size_t workspace_bytes(const Conv2d&, std::span<const Value>, const Card&) { return 0; }
void run(const Conv2dInputGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "Conv2dInputGrad"); }
size_t workspace_bytes(const Conv2dInputGrad&, std::span<const Value>, const Card&) { return 0; }

}  // namespace lorafuse::cuda
