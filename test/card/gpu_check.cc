// What a machine with a card is asked, without Node: every op and whole networks against f64, steps against diffusers and peft, then timings.
//   cmake -S . -B build/gpu -DLORAFUSE_TESTS=ON -DLORAFUSE_CUDA_ARCHITECTURES=native -DLORAFUSE_OUTPUT=$PWD/build/gpu
//   cmake --build build/gpu --target gpu_check -j && build/gpu/gpu_check | tee report.txt
// gpu_check tests [part of a name] and gpu_check bench … (bench.cc) do a part of it. Before them, --goldens FOLDER: a copy of test/fixtures,
// where the sources are no longer in the place that they were built in.
#include <cstdio>
#include <cstdlib>

#include "bench.h"
#include "golden.h"
#include "test.h"

namespace lorafuse::test {
namespace {

// Cards differ in memory: what does not fit is said, and the rest goes on.
void time_step(const std::vector<std::string>& settings) {
  std::printf("\n");
  try {
    bench(settings);
  } catch (const Error& e) {
    if (e.code() != "OUT_OF_MEMORY") throw;
    std::printf("not timed: %s\n", e.what());
  }
}

int check(const char* program, std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments[0] == "--goldens") {
    CHECK(arguments.size() > 1, "INVALID_OPTION", "Expected a folder after --goldens");
    set_fixtures(arguments[1]);
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  if (!arguments.empty() && arguments[0] == "bench") {
    bench({arguments.begin() + 1, arguments.end()});
    return 0;
  }
  if (!arguments.empty() && arguments[0] == "tests") return run_cases(program, arguments.size() > 1 ? arguments[1] : " card");
  const int failed = run_cases(program, " card");
  for (const std::vector<std::string>& settings :
       {std::vector<std::string>{"--ops"}, {"--targets", "attention"}, {"--batch", "4"}, {"--size", "768"}, {"--size", "256", "--batch", "8"},
        {"--model", "sdxl", "--targets", "attention"}, {"--model", "sdxl", "--ops"}})
    time_step(settings);
  return failed;
}

}  // namespace
}  // namespace lorafuse::test

int main(int count, char** arguments) {
  // The library beside this program, on the real runtime, unless another is named.
  const std::string self = arguments[0], folder = self.find('/') == std::string::npos ? "." : self.substr(0, self.rfind('/'));
  setenv("LORAFUSE_CUDA_LIBRARY", (folder + "/liblorafuse_cuda.so").c_str(), 0);
  try {
    return lorafuse::test::check(arguments[0], {arguments + 1, arguments + count});
  } catch (const std::exception& e) {
    std::fprintf(stderr, "gpu_check: %s\n", e.what());
    return 1;
  }
}
