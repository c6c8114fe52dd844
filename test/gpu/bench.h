#pragma once
#include <string>
#include <vector>

namespace lorafuse::test {

// Prints the timings. Throws ARGUMENT_INVALID, and what opening the GPU throws.
void bench(const std::vector<std::string>& arguments);

}  // namespace lorafuse::test
