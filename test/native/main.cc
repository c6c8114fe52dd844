// native_tests [words …] [--except word] [--quick] [--until-failure] (test/runner/runner.h) [--every-kernel]
// --every-kernel: it is a failure if a kernel of the CUDA backend has not run by the end.
#include <algorithm>
#include <cstdio>

#include "coverage.h"
#include "test.h"

namespace lorafuse::test {
namespace {

int run(const std::string& program, std::vector<std::string> arguments) {
  const bool every_kernel = std::erase(arguments, "--every-kernel") > 0;
  const int failed = run_cases(program, arguments);
  const std::string idle = every_kernel ? idle_kernels() : "";
  if (!idle.empty()) std::fprintf(stderr, "kernels of the CUDA backend that no case runs:\n%s", idle.c_str());
  return failed || !idle.empty() ? 1 : 0;
}

}  // namespace
}  // namespace lorafuse::test

int main(int count, char** arguments) {
  try {
    return lorafuse::test::run(arguments[0], {arguments + 1, arguments + count});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "native_tests: %s\n", e.what());
    return 1;
  }
}
