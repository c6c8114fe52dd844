// Which kernels of the CUDA backend the emulator has run, and which rows a quick selection runs.
#pragma once
#include <functional>
#include <string>

namespace lorafuse::test {

// Whether the quick selection has a row whose kernels `launch` launches: it is the 1st, 4th, 16th, … row to launch one of them.
// So every kernel that any row launches has a row. Nothing is computed: the emulator only notes which kernels are asked for.
bool widens_coverage(const std::function<void()>& launch);

// The kernels of the CUDA backend that have not run, one a line; empty kernels (bf16 below sm_80) are not counted.
std::string idle_kernels();

}  // namespace lorafuse::test
