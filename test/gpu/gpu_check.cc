// What a machine with a GPU is asked, without Node: every op and whole networks against f64, steps against diffusers and peft, then
// timings.
//   cmake -S . -B build/gpu -DLORAFUSE_TESTS=ON -DLORAFUSE_CUDA_ARCHITECTURES=native -DLORAFUSE_OUTPUT=$PWD/build/gpu
//   cmake --build build/gpu --target gpu_check -j && build/gpu/gpu_check | tee report.txt
// gpu_check tests [part of a name], gpu_check timings and gpu_check bench … (bench.cc) do a part of it. Before them, --goldens FOLDER:
// a copy of test/fixtures, where the sources are no longer in the place that they were built in.
#include <cstdio>
#include <cstdlib>

#include "bench.h"
#include "golden.h"
#include "test.h"

namespace lorafuse::test {
namespace {

void timings() {
  for (const std::vector<std::string>& settings : {std::vector<std::string>{"--ops"},
                                                   {"--targets", "attention"},
                                                   {"--batch", "4"},
                                                   {"--size", "768"},
                                                   {"--size", "256", "--batch", "8"},
                                                   {"--model", "sdxl", "--targets", "attention"},
                                                   {"--model", "sdxl", "--ops"}}) {
    std::printf("\n");
    try {
      bench(settings);
    } catch (const Error& e) {  // GPUs differ in memory: the rest goes on
      if (e.code() != "OUT_OF_MEMORY") throw;
      std::printf("not timed: %s\n", e.what());
    }
  }
}

int check(const char* program, std::vector<std::string> arguments) {
  if (!arguments.empty() && arguments[0] == "--goldens") {
    CHECK(arguments.size() > 1, "ARGUMENT_INVALID", "Expected a folder after --goldens");
    set_fixtures(arguments[1]);
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  const std::string part = arguments.empty() ? "" : arguments[0];
  const std::vector<std::string> rest(arguments.begin() + (part.empty() ? 0 : 1), arguments.end());
  CHECK(part.empty() || part == "tests" || part == "bench" || part == "timings", "ARGUMENT_INVALID",
        "Expected tests, timings or bench but received ", part);
  const int failed = part.empty() || part == "tests" ? run_cases(program, rest.empty() ? std::vector<std::string>{" gpu"} : rest) : 0;
  if (part == "bench") bench(rest);
  if (part.empty() || part == "timings") timings();
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
