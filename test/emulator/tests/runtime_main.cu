// runtime_tests [part of a name]: the cases of the CUDA runtime, in a program that is linked to it as to the real one.
// runtime_tests --report: what the first call of a program sees; for settings that come from the environment.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/test.h"

namespace ptxemu::test {
namespace {

struct Suite {
  const char* name;
  void (*fill)();
};
struct Case {
  std::string name;
  std::function<void()> body;
};
std::vector<Suite>& suites() {
  static std::vector<Suite> all;
  return all;
}
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

std::string failure_of(const Case& c) {
  try {
    c.body();
    return "";
  } catch (const std::exception& e) {
    return e.what();
  }
}

int run(const std::string& part) {
  size_t ran = 0, failed = 0;
  for (const Suite& s : suites()) {
    cases().clear();
    s.fill();
    std::printf("# %s\n", s.name);
    for (const Case& c : cases()) {
      if (c.name.find(part) == std::string::npos) continue;
      const std::string failure = failure_of(c);
      std::printf("%s %s\n", failure.empty() ? "ok" : "FAILED", c.name.c_str());
      if (!failure.empty()) std::printf("  %s\n", failure.c_str());
      ++ran;
      failed += !failure.empty();
    }
  }
  std::printf("%zu cases, %zu failed\n", ran, failed);
  return failed || !ran;
}

int report() {
  int count = -1;
  const cudaError_t error = cudaGetDeviceCount(&count);
  std::printf("%d %s %s\n", count, cudaGetErrorName(error), cudaGetErrorString(error));
  return 0;
}

}  // namespace

bool suite(const char* name, void (*fill)()) {
  suites().push_back({name, fill});
  return true;
}

void test_case(std::string name, std::function<void()> body) { cases().push_back({std::move(name), std::move(body)}); }

}  // namespace ptxemu::test

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "--report") == 0) return ptxemu::test::report();
  return ptxemu::test::run(count > 1 ? arguments[1] : "");
}
