// The one way to call the CUDA runtime and to launch a kernel: what fails throws Error{CUDA_ERROR | OUT_OF_MEMORY}.
#pragma once
#include <cuda_runtime_api.h>

#include "../base/check.h"

namespace lorafuse::cuda {

inline void check(cudaError_t status, const char* what) {
  CHECK(status != cudaErrorMemoryAllocation, "OUT_OF_MEMORY", "[cuda] ", what, ": the GPU has no more memory");
  CHECK(status == cudaSuccess, "CUDA_ERROR", "[cuda] ", what, ": ", cudaGetErrorString(status));
}

// Arguments are converted to the kernel's own parameter types.
template <class... Parameters, class... Arguments> void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                                               size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  const auto issue = [&](Parameters... converted) {
    void* pointers[] = {static_cast<void*>(&converted)...};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream), name);
  };
  issue(static_cast<Parameters>(arguments)...);
}

}  // namespace lorafuse::cuda

// CUDA(cudaMalloc(&p, n)): every call of the runtime.
#define CUDA(call) ::lorafuse::cuda::check((call), #call)
