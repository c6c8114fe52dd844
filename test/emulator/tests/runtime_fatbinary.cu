// Fat binaries written by hand: which PTX is chosen, and what is said where none can be.
#include <cstring>

#include "tests/runtime_gpu.h"

extern "C" {
void** __cudaRegisterFatBinary(void* wrapper);
void __cudaRegisterFatBinaryEnd(void** handle);
void __cudaUnregisterFatBinary(void** handle);
void __cudaRegisterFunction(void** handle, const char* host, char* device, const char* name, int limit, uint3*, uint3*, dim3*, dim3*, int*);
}

namespace ptxemu::test {
namespace {

// A kernel that stores `value`.
std::string ptx(int target, int value) {
  return text(".version 9.0\n.target sm_", target, "\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n",
              ".reg .u64 %a;\n.reg .u32 %v;\nld.param.u64 %a, [out];\nmov.u32 %v, ", value, ";\nst.global.u32 [%a], %v;\nret;\n}\n");
}

struct FatBinary {
  std::vector<char> bytes = std::vector<char>(16);
  struct {
    uint32_t magic = 0x466243B1, version = 1;
    const char* data = nullptr;
    void* unused = nullptr;
  } wrapper;
  void** handle = nullptr;
  char function = 0;  // its address stands for the host's function

  template <class T> void put(size_t at, T value) { std::memcpy(bytes.data() + at, &value, sizeof value); }

  void add(uint16_t kind, uint32_t architecture, const std::string& payload, uint64_t flags = 0) {
    const size_t at = bytes.size();
    bytes.resize(at + 64);
    put(at, kind);
    put(at + 4, uint32_t(64));
    put(at + 8, uint64_t(payload.size() + 1));
    put(at + 28, architecture);
    put(at + 40, flags);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    bytes.push_back(0);
  }

  void enter() {
    put(0, uint32_t(0xBA55ED50));
    put(4, uint16_t(1));
    put(6, uint16_t(16));
    put(8, uint64_t(bytes.size() - 16));
    wrapper.data = bytes.data();
    handle = __cudaRegisterFatBinary(&wrapper);
    __cudaRegisterFunction(handle, &function, &function, "k", -1, nullptr, nullptr, nullptr, nullptr, nullptr);
    __cudaRegisterFatBinaryEnd(handle);
  }
  ~FatBinary() {
    if (handle) __cudaUnregisterFatBinary(handle);
  }

  cudaError_t launch(int* x) {
    void* arguments[] = {&x};
    return cudaLaunchKernel(&function, dim3(1), dim3(1), arguments, 0, nullptr);
  }
};

void says(cudaError_t error, cudaError_t expected, const char* part) {
  FAILS(error, expected);
  const std::string report = cudaGetErrorString(error);
  EXPECT(report.find(part) != std::string::npos, "no \"", part, "\" in: ", report);
}

}  // namespace

SUITE(runtime_fatbinary) {
  test_case("the highest PTX that the gpu runs is chosen", [] {
    FatBinary binary;
    for (int target : {80, 75, 90}) binary.add(1, target, ptx(target, target));
    binary.enter();
    for (const auto& [gpu, expected] : {std::pair{75, 75}, {80, 80}, {86, 80}, {89, 80}, {90, 90}, {120, 90}}) {
      fresh(gpu);
      int* x = ints(1);
      MUST(binary.launch(x));
      EXPECT(values(x, 1)[0] == expected, "gpu ", gpu, ": came ", values(x, 1)[0]);
    }
  });

  test_case("no PTX, PTX for later gpus only and compressed PTX are errors that say what to do", [] {
    fresh();
    FatBinary machine_code, later, compressed;
    machine_code.add(2, 75, "");
    later.add(1, 80, ptx(80, 1));
    compressed.add(1, 75, "\x28\xb5\x2f\xfd", 0x8000);
    for (FatBinary* binary : {&machine_code, &later, &compressed}) binary->enter();
    int* x = ints(1);
    says(machine_code.launch(x), cudaErrorNoKernelImageForDevice, "no PTX for a gpu of compute capability 75");
    says(later.launch(x), cudaErrorNoKernelImageForDevice, "PTX for 80");
    says(compressed.launch(x), cudaErrorNoKernelImageForDevice, "--compress-mode=none");
    MUST(cudaMemset(x, 0, 4));
  });

  test_case("PTX that cannot be read and a kernel that is not in it are errors", [] {
    fresh();
    FatBinary bad, other;
    bad.add(1, 75, ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k() {\nnonsense.u32 %r1, %r2;\nret;\n}\n");
    other.add(1, 75, ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry other() {\nret;\n}\n");
    bad.enter();
    other.enter();
    int* x = ints(1);
    says(other.launch(x), cudaErrorInvalidDeviceFunction, "no kernel k");
    FAILS(bad.launch(x), cudaErrorInvalidPtx);
    fresh();
  });

  test_case("a function that nobody registered is no kernel", [] {
    fresh();
    char none = 0;
    FAILS(cudaLaunchKernel(&none, dim3(1), dim3(1), nullptr, 0, nullptr), cudaErrorInvalidDeviceFunction);
  });
}

}  // namespace ptxemu::test
