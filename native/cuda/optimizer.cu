#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void update(cudaStream_t, const AdamW&, float*, float*, float*, float*, int64_t, void*) { throw Error("NOT_IMPLEMENTED", "update"); }

}  // namespace lorafuse::cuda
