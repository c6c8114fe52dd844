// Opens a backend: a shared library beside this one. Nothing links to it, so the addon loads on any machine.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../graph/backend.h"

namespace lorafuse {

// Which CPU library this processor runs for a session of this precision: x86-64-v4, x86-64-v3 or generic; for bf16, where the processor
// multiplies it, x86-64-v4-bf16, whose products round their operands to bf16.
std::string cpu_variant(DType precision = DType::f32);
// Processor features that matter here and are present, e.g. avx2, avx512f, avx512_bf16.
std::vector<std::string> cpu_features();

// Throws BACKEND_MISSING where the library is not there, OUT_OF_MEMORY or TOO_MANY_FILES where it finds no room. The library stays open
// while the process lives.
std::shared_ptr<Backend> open_cpu_backend(int threads, const std::string& variant);

// The CUDA backend on the first GPU. Throws BACKEND_MISSING where this build has none, NO_DEVICE where the machine has no GPU for it.
// LORAFUSE_CUDA_LIBRARY names another library: the tests' emulated one.
std::shared_ptr<Backend> open_cuda_backend();
// The same library's plans for a GPU that need not be there. Throws BACKEND_MISSING where this build has none.
std::shared_ptr<Backend> open_cuda_planner(const PlannedGpu& gpu);

}  // namespace lorafuse
