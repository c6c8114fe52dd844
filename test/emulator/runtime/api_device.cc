// The GPU: how many, which, its properties, waiting for all of it.
#include <cstring>

#include "runtime/runtime.h"

using namespace ptxemu;

namespace {

void must_exist(int device) { require(device == 0, cudaErrorInvalidDevice, "the emulated machine has one gpu, number 0"); }

void fill(cudaDeviceProp& p, const Gpu& gpu) {
  p = {};
  std::strncpy(p.name, gpu.name.c_str(), sizeof p.name - 1);
  p.totalGlobalMem = gpu.memory_bytes;
  p.sharedMemPerBlock = gpu.shared_per_block;
  p.regsPerBlock = p.regsPerMultiprocessor = gpu.registers_per_multiprocessor;
  p.warpSize = 32;
  p.memPitch = 0x7fffffff;
  p.maxThreadsPerBlock = gpu.threads_per_block;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = gpu.constant_bytes;
  p.major = gpu.compute_capability / 10;
  p.minor = gpu.compute_capability % 10;
  p.textureAlignment = 512;
  p.multiProcessorCount = gpu.multiprocessors;
  p.canMapHostMemory = p.unifiedAddressing = p.streamPrioritiesSupported = p.concurrentKernels = p.hostRegisterSupported = 1;
  p.asyncEngineCount = 2;
  p.l2CacheSize = int(gpu.l2_bytes);
  p.maxThreadsPerMultiProcessor = gpu.threads_per_multiprocessor;
  p.maxBlocksPerMultiProcessor = gpu.blocks_per_multiprocessor;
  p.sharedMemPerMultiprocessor = gpu.shared_per_multiprocessor;
  p.sharedMemPerBlockOptin = gpu.shared_per_block_opt_in;
  p.reservedSharedMemPerBlock = gpu.shared_reserved_per_block;
}

int attribute(const Gpu& gpu, cudaDeviceAttr which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock: return gpu.threads_per_block;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return int(gpu.shared_per_block);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return int(gpu.shared_per_block_opt_in);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return int(gpu.shared_per_multiprocessor);
    case cudaDevAttrReservedSharedMemoryPerBlock: return int(gpu.shared_reserved_per_block);
    case cudaDevAttrTotalConstantMemory: return int(gpu.constant_bytes);
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return gpu.registers_per_multiprocessor;
    case cudaDevAttrMultiProcessorCount: return gpu.multiprocessors;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return gpu.threads_per_multiprocessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return gpu.blocks_per_multiprocessor;
    case cudaDevAttrL2CacheSize: return int(gpu.l2_bytes);
    case cudaDevAttrComputeCapabilityMajor: return gpu.compute_capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return gpu.compute_capability % 10;
    case cudaDevAttrAsyncEngineCount: return 2;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrStreamPrioritiesSupported:
    case cudaDevAttrHostRegisterSupported: return 1;
    case cudaDevAttrIntegrated:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrKernelExecTimeout: return 0;
    default: throw Failure(cudaErrorInvalidValue, "the emulator does not know device attribute " + std::to_string(int(which)));
  }
}

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  if (!version) return cudaErrorInvalidValue;
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceCount(int* count) {
  if (count) *count = 0;
  return call([&](Runtime& r) {
    require(count, cudaErrorInvalidValue, "no place for the number of gpus");
    *count = r.settings.devices;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return call([&](Runtime&) { *device = 0; });
}

cudaError_t cudaSetDevice(int device) {
  return call([&](Runtime&) { must_exist(device); });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&](Runtime& r) {
    must_exist(device);
    fill(*properties, r.gpu);
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  return call([&](Runtime& r) {
    must_exist(device);
    *value = attribute(r.gpu, which);
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call([&](Runtime& r) {
    r.graphs.refuse_all();
    r.scheduler.finish_all();
  });
}

cudaError_t cudaDeviceReset() {
  return call([&](Runtime& r) {
    r.graphs.refuse_all();
    r.scheduler.finish_all();
    r.reset();
  });
}
}
