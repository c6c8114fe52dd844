// The common ground of all kernels: element types, and reductions in a fixed order.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "../base/tensor.h"
#include "runtime.h"

namespace lorafuse::cuda {

// Elements of one access of 16 bytes.
template <class T> constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// Whether this architecture computes in T: kernels for bf16 are empty below sm_80.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class T> constexpr bool kComputes = !std::is_same_v<T, __nv_bfloat16>;
#else
template <class T> constexpr bool kComputes = true;
#endif

// For __launch_bounds__: how many blocks shall fit a multiprocessor. One fewer from sm_90 on, where ptxas takes a few registers more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int resident_blocks(int blocks) { return blocks > 1 ? blocks - 1 : 1; }
#else
constexpr int resident_blocks(int blocks) { return blocks; }
#endif

// Calls f(T()) with the element type of a tensor.
template <class F> void for_type(DType dtype, F f) {
  if (dtype == DType::f16) f(__half());
  else if (dtype == DType::bf16) f(__nv_bfloat16());
  else f(float());
}

template <class T> T* data(const Tensor& t) { return static_cast<T*>(t.data); }

template <class T> __host__ __device__ constexpr T ceil_div(T a, T b) { return (a + b - 1) / b; }

constexpr int kBlock = 256;  // threads of a block of launch_each()
struct Threads { int64_t count, samples = 1; };

// Launches a kernel with `count` threads for each sample, blockIdx.y, in blocks of kBlock.
template <class... Parameters, class... Arguments>
void launch_each(const char* name, void (*kernel)(Parameters...), Threads threads, cudaStream_t stream, Arguments... arguments) {
  launch(name, kernel, dim3(ceil_div<int64_t>(threads.count, kBlock), threads.samples), kBlock, 0, stream, arguments...);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x);
  else return x;
}

// The sum over all lanes, for all lanes, in butterfly order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// The sum over all threads of a block of kThreads, for all of them. `scratch` [32] may be used again after the next barrier.
template <int kThreads> __device__ __forceinline__ float block_sum(float x, float* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < kThreads / 32 ? scratch[threadIdx.x % 32] : 0.0f);
}

}  // namespace lorafuse::cuda
