#include "library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>

namespace lorafuse {
namespace {

std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&own_folder), &info) || !info.dli_fname) return ".";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

// The library stays open while the process lives.
template <class Create = CreateBackend>
Create open_library(const std::string& name, const std::string& path, const char* symbol = "lorafuse_create_backend") {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  auto* create = library ? reinterpret_cast<Create>(dlsym(library, symbol)) : nullptr;
  if (create) return create;
  const char* error = dlerror();
  const std::string why = error ? error : "it has no such symbol";
  const auto says = [&](const char* words) { return why.find(words) != std::string::npos; };
  const bool no_memory = says("Cannot allocate memory") || says("failed to map");
  throw Error(no_memory                     ? "OUT_OF_MEMORY"
              : says("Too many open files") ? "TOO_MANY_FILES"
                                            : "BACKEND_MISSING",
              text("Expected the ", name, " at ", path, " but it could not be opened: ", why.c_str()));  // not cut
}

}  // namespace

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define FEATURE(name, label) \
  if (__builtin_cpu_supports(name)) found.push_back(label)
  FEATURE("avx", "avx");
  FEATURE("avx2", "avx2");
  FEATURE("fma", "fma");
  FEATURE("avx512f", "avx512f");
  FEATURE("avx512bw", "avx512bw");
  FEATURE("avx512vl", "avx512vl");
  FEATURE("avx512bf16", "avx512_bf16");
#undef FEATURE
#elif defined(__aarch64__)
  found.push_back("neon");
#endif
  return found;
}

std::string cpu_variant([[maybe_unused]] DType precision) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  auto all = [](auto... present) { return (present && ...); };
  if (all(__builtin_cpu_supports("avx512f"), __builtin_cpu_supports("avx512bw"), __builtin_cpu_supports("avx512cd"),
          __builtin_cpu_supports("avx512dq"), __builtin_cpu_supports("avx512vl")))
    return precision == DType::bf16 && __builtin_cpu_supports("avx512bf16") ? "x86-64-v4-bf16" : "x86-64-v4";
  if (all(__builtin_cpu_supports("avx2"), __builtin_cpu_supports("fma"), __builtin_cpu_supports("bmi2"))) return "x86-64-v3";
#endif
  return "generic";
}

std::shared_ptr<Backend> open_cpu_backend(int threads, const std::string& variant) {
  const std::string suffix = variant == "generic" ? variant : variant.substr(variant.find('v'));
  return std::shared_ptr<Backend>(open_library("CPU backend", own_folder() + "/liblorafuse_cpu_" + suffix + ".so")(threads));
}

namespace {

std::string cuda_library() {
  const char* other = std::getenv("LORAFUSE_CUDA_LIBRARY");
  const std::string path = other ? other : own_folder() + "/liblorafuse_cuda.so";
  CHECK(other || access(path.c_str(), F_OK) == 0, "BACKEND_MISSING",
        "Expected the CUDA backend but this build has none, as nvcc was not found, or LORAFUSE_CUDA was off, when it was built; "
        "where nvcc 12.4 or newer is, run: npx lorafuse-build");
  return path;
}

}  // namespace

std::shared_ptr<Backend> open_cuda_backend() { return std::shared_ptr<Backend>(open_library("CUDA backend", cuda_library())(1)); }

std::shared_ptr<Backend> open_cuda_planner(const PlannedGpu& gpu) {
  return std::shared_ptr<Backend>(open_library<CreatePlanner>("CUDA backend", cuda_library(), "lorafuse_create_planner")(gpu));
}

}  // namespace lorafuse
