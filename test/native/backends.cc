#include "backends.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>

#include "train/library.h"

namespace lorafuse::test {

const std::vector<std::string>& variants() {
  static const std::vector<std::string> runnable = [] {
    std::vector<std::string> found;
    for (const char* v : {"generic", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"}) {
      found.push_back(v);
#ifdef LORAFUSE_EXTENSION
      break;  // test/extension builds no other
#endif
      if (v == cpu_variant(DType::bf16)) break;
    }
    return found;
  }();
  return runnable;
}

std::string label(const std::string& variant) { return variant == "generic" ? variant : variant.substr(variant.find('v')); }
DType multiplies(const std::string& variant) { return variant.ends_with("bf16") ? DType::bf16 : DType::f32; }

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
    setenv("PTXEMU_GPU", LORAFUSE_EMULATED_GPU, 0);
    return open_cuda_backend();
  }();
  return opened.get();
#else
  return nullptr;
#endif
}

void* emulator_symbol(const char* name) {
  static void* const runtime = [] {
    void* found = nullptr;  // loaded with the backend
    for (const char* library : {"libcudart.so.13", "libcudart.so.12"})
      if (gpu() && !found) found = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    return found;
  }();
  return runtime ? dlsym(runtime, name) : nullptr;
}

void set_emulator(const char* name, const char* value) {
  if (const auto set = emulator_call<int(const char*, const char*)>("ptxemu_set_option")) set(name, value);
}

std::vector<DType> gpu_types() {
  std::vector<DType> types;
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (gpu() && gpu()->computes_in(t)) types.push_back(t);
  return types;
}

std::vector<DType> gpu_network_types() { return test_runner::quick() && gpu() ? std::vector{DType::f16} : gpu_types(); }

}  // namespace lorafuse::test
