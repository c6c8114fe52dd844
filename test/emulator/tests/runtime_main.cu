// runtime_tests [words …]: the cases of the CUDA runtime, in a program that is linked to it as to the real one.
// runtime_tests --report: what the first call of a program sees; for settings that come from the environment.
#include <cuda_runtime_api.h>

#include <cstdio>

#include "tests/test.h"

namespace {

int report() {
  int count = -1;
  const cudaError_t error = cudaGetDeviceCount(&count);
  std::printf("%d %s %s\n", count, cudaGetErrorName(error), cudaGetErrorString(error));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> rest(arguments + 1, arguments + count);
  if (rest == std::vector<std::string>{"--report"}) return report();
  try {
    return test_runner::run_cases(arguments[0], test_runner::selection(rest));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "runtime_tests: %s\n", e.what());
    return 1;
  }
}
