// native_tests [words …] [--except word] [--quick] [--until-failure] (test/runner/runner.h) [--idle]
// --idle: names the kernels of the CUDA backend that have not run by the end, on stderr, a line each.
#include <algorithm>
#include <cstdio>

#include "coverage.h"
#include "test.h"

namespace lorafuse::test {
namespace {

int run_tests(const std::string& program, std::vector<std::string> arguments) {
  const bool tell_idle = std::erase(arguments, "--idle") > 0;
  const int failed = run_cases(program, arguments);
  if (tell_idle) std::fputs(idle_kernels().c_str(), stderr);
  return failed;
}

}  // namespace
}  // namespace lorafuse::test

int main(int count, char** arguments) {
  try {
    return lorafuse::test::run_tests(arguments[0], {arguments + 1, arguments + count});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "native_tests: %s\n", e.what());
    return 1;
  }
}
