#include "backends.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>

#include "train/library.h"

namespace lorafuse::test {

const std::vector<std::string>& variants() {
  static const std::vector<std::string> runnable = [] {
    std::vector<std::string> found;
    for (const char* v : {"generic", "x86-64-v3", "x86-64-v4"}) {
      found.push_back(v);
#ifdef LORAFUSE_EXTENSION
      break;  // test/extension builds no other
#endif
      if (v == cpu_variant()) break;
    }
    return found;
  }();
  return runnable;
}

std::string label(const std::string& variant) { return variant == "generic" ? variant : variant.substr(variant.rfind('v')); }

Backend& backend(const std::string& variant, int threads) {
  static std::map<std::pair<std::string, int>, std::shared_ptr<Backend>> opened;
  auto& found = opened[{variant, threads}];
  if (!found) found = open_cpu_backend(threads, variant);
  return *found;
}

Backend* gpu() {
#ifdef LORAFUSE_EMULATED_LIBRARY
  static const std::shared_ptr<Backend> opened = [] {
    setenv("LORAFUSE_CUDA_LIBRARY", LORAFUSE_EMULATED_LIBRARY, 0);
    return open_cuda_backend();
  }();
  return opened.get();
#else
  return nullptr;
#endif
}

void set_gpu_order(const char* order) {
  using SetOption = int (*)(const char*, const char*);
  for (const char* name : {"libcudart.so.13", "libcudart.so.12"})  // loaded with the backend
    if (void* runtime = dlopen(name, RTLD_NOW | RTLD_NOLOAD)) {
      if (auto set = reinterpret_cast<SetOption>(dlsym(runtime, "ptxemu_set_option"))) set("order", order);
      dlclose(runtime);
    }
}

std::vector<DType> gpu_types() {
  std::vector<DType> types;
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (gpu() && gpu()->computes_in(t)) types.push_back(t);
  return types;
}

}  // namespace lorafuse::test
