// What the cases of the runtime share: a fresh GPU, kernels small enough to know their results, an array on the GPU.
#pragma once
#include <cuda_runtime.h>

#include <vector>

#include "runtime/ptxemu.h"
#include "tests/test.h"

namespace ptxemu::test {

#define MUST(call) must(call, #call, __LINE__)
inline void must(cudaError_t error, const char* what, int line) {
  EXPECT(error == cudaSuccess, what, " in line ", line, ": ", cudaGetErrorString(error));
}

#define FAILS(call, expected) fails(call, expected, #call, __LINE__)
inline void fails(cudaError_t error, cudaError_t expected, const char* what, int line) {
  EXPECT(error == expected, what, " in line ", line, ": expected ", cudaGetErrorName(expected), ", came ", cudaGetErrorName(error), ": ",
         cudaGetErrorString(error));
}

// A new GPU; everything of the case before is gone.
inline void fresh(int gpu = 75, int seed = 1, const char* memory = "64M") {
  ptxemu_fail_allocation(0);
  ptxemu_fail_launch(0);
  for (const auto& [name, value] : {std::pair<const char*, std::string>{"devices", "1"},
                                    {"gpu", std::to_string(gpu)},
                                    {"seed", std::to_string(seed)},
                                    {"memory", memory}})
    EXPECT(ptxemu_set_option(name, value.c_str()) == 0, ptxemu_last_report());
  ptxemu_reset();
}

constexpr int seeds = 24;  // a planted mistake must show in one of them, right code must be right in all

// n ints on the GPU; memory is given back by fresh().
inline int* ints(int n) {
  int* array = nullptr;
  MUST(cudaMalloc(&array, n * sizeof(int)));
  return array;
}

// Waits for the whole GPU.
inline std::vector<int> values(const int* array, int n) {
  MUST(cudaDeviceSynchronize());
  std::vector<int> host(n);
  MUST(cudaMemcpy(host.data(), array, n * sizeof(int), cudaMemcpyDeviceToHost));
  return host;
}

inline int* pinned(int n, int value) {
  int* array = nullptr;
  MUST(cudaMallocHost(&array, n * sizeof(int)));
  for (int i = 0; i < n; ++i) array[i] = value;
  return array;
}

inline cudaStream_t stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t s = nullptr;
  MUST(cudaStreamCreateWithFlags(&s, flags));
  return s;
}

inline cudaEvent_t event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t e = nullptr;
  MUST(cudaEventCreateWithFlags(&e, flags));
  return e;
}

static __global__ void set_all(int* x, int n, int value) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = value;
}

static __global__ void add_all(int* x, int n, int value) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += value;
}

// y = 10 y + digit: the order of several shows in the digits.
static __global__ void append_digit(int* y, int digit) { y[0] = 10 * y[0] + digit; }

}  // namespace ptxemu::test
