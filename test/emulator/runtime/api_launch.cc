// Kernels: launches, attributes, occupancy.
#include <cuda_occupancy.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "runtime/queue.h"

using namespace ptxemu;

namespace {

std::string shape(const Dim3& d) { return std::to_string(d.x) + "x" + std::to_string(d.y) + "x" + std::to_string(d.z); }

std::string json(const Dim3& d) { return "[" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + "]"; }

// Registers are given to a warp in pieces of 256; a multiprocessor holds 65536.
bool registers_suffice(const Function& function, uint64_t threads, const Gpu& gpu) {
  const uint64_t warps = (threads + 31) / 32, per_warp = (uint64_t(function.registers) * 32 + 255) / 256 * 256;
  return warps * per_warp <= uint64_t(gpu.registers_per_multiprocessor);
}

void check_limits(const Function& function, const Launch& launch, const Gpu& gpu) {
  const LaunchLimit limit = check(launch, gpu, function.opted_in_shared);
  const bool registers = registers_suffice(function, launch.block.count(), gpu);
  if (limit == LaunchLimit::none && registers) return;
  std::ostringstream text;
  text << "kernel " << function.name << ", grid " << shape(launch.grid) << ", block " << shape(launch.block) << ", shared memory "
       << launch.kernel->static_shared_bytes << " + " << launch.dynamic_shared << " bytes (" << function.opted_in_shared
       << " opted in), compute capability " << gpu.compute_capability << ": ";
  if (limit == LaunchLimit::none) {
    text << function.registers << " registers per thread are more than the multiprocessor has";
    throw Failure(cudaErrorLaunchOutOfResources, text.str());
  }
  const bool configuration =
      limit == LaunchLimit::empty_dimension || limit == LaunchLimit::block_dimension || limit == LaunchLimit::grid_dimension;
  throw Failure(configuration ? cudaErrorInvalidConfiguration : cudaErrorInvalidValue, text.str() + name(limit));
}

void launch(Runtime& r, const void* host, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  Function& function = r.function(host);
  Launch launch;
  launch.kernel = function.kernel;
  launch.grid = {grid.x, grid.y, grid.z};
  launch.block = {block.x, block.y, block.z};
  launch.dynamic_shared = shared;
  launch.parameters.resize(function.kernel->parameter_bytes);
  for (size_t i = 0; i < function.kernel->parameters.size(); ++i) {
    const Parameter& parameter = function.kernel->parameters[i];
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.bytes);
  }
  check_limits(function, launch, r.gpu);
  r.launched.insert(function.name);
  if (!r.settings.execute) return;
  function.binary->module->decode(*function.kernel);
  enqueue(r, r.streams.stream(stream), cudaGraphNodeTypeKernel, [&r, launch, code = function.binary->module] {
    const KernelCounters counted = run(launch, *r.memory, r.gpu, r.settings.options, r.counters);
    if (r.settings.launches_file.empty()) return;
    int instructions = 0;
    for (const auto& [opcode, count] : code->opcodes(*launch.kernel)) instructions += count;
    r.trace("{\"kernel\": \"" + launch.kernel->name + "\", \"grid\": " + json(launch.grid) + ", \"block\": " + json(launch.block) +
            ", \"dynamic_shared\": " + std::to_string(launch.dynamic_shared) + ", \"ptx_instructions\": " + std::to_string(instructions) +
            ", \"counters\": " + counted.json() + "}");
  });
}

int threads_per_block(const Function& function, const Gpu& gpu) {
  const Kernel& kernel = *function.kernel;
  int threads = gpu.threads_per_block;
  for (const Dim3& bound : {kernel.max_threads, kernel.required_threads})
    if (bound.count()) threads = std::min(threads, int(bound.count()));
  while (threads > 32 && !registers_suffice(function, uint64_t(threads), gpu)) threads -= 32;
  return threads;
}

void occupancy(Runtime& r, int* blocks, const void* host, int block_threads, size_t dynamic_shared) {
  require(blocks && block_threads > 0, cudaErrorInvalidValue, "occupancy of a block without threads");
  const Function& function = r.function(host);
  if (function.registers == 0)
    throw Failure(cudaErrorNotSupported, "the registers of kernel " + function.name +
                                             " are not known: the fat binary holds no "
                                             "uncompressed machine code that compute capability " +
                                             std::to_string(r.gpu.compute_capability) + " runs");
  cudaOccDeviceProp gpu;
  gpu.computeMajor = r.gpu.compute_capability / 10;
  gpu.computeMinor = r.gpu.compute_capability % 10;
  gpu.maxThreadsPerBlock = r.gpu.threads_per_block;
  gpu.maxThreadsPerMultiprocessor = r.gpu.threads_per_multiprocessor;
  gpu.regsPerBlock = gpu.regsPerMultiprocessor = r.gpu.registers_per_multiprocessor;
  gpu.warpSize = 32;
  gpu.sharedMemPerBlock = r.gpu.shared_per_block;
  gpu.sharedMemPerMultiprocessor = r.gpu.shared_per_multiprocessor;
  gpu.numSms = r.gpu.multiprocessors;
  gpu.sharedMemPerBlockOptin = r.gpu.shared_per_block_opt_in;
  gpu.reservedSharedMemPerBlock = r.gpu.shared_reserved_per_block;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = threads_per_block(function, r.gpu);
  kernel.numRegs = function.registers;
  kernel.sharedSizeBytes = function.kernel->static_shared_bytes;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = std::max(function.opted_in_shared, r.gpu.shared_per_block - function.kernel->static_shared_bytes);
  kernel.numBlockBarriers = 1;
  const cudaOccDeviceState state;
  cudaOccResult result;
  const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, block_threads, dynamic_shared);
  if (error != CUDA_OCC_SUCCESS)
    throw Failure(cudaErrorInvalidValue, "cuda_occupancy.h refuses kernel " + function.name + " with error " + std::to_string(error));
  *blocks = result.activeBlocksPerMultiprocessor;
}

}  // namespace

extern "C" {

cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  return call([&](Runtime& r) { launch(r, host, grid, block, arguments, shared, stream); });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
  return call([&](Runtime& r) {
    require(config, cudaErrorInvalidValue, "no launch configuration");
    require(config->numAttrs == 0, cudaErrorNotSupported, "the emulator knows no launch attributes");
    launch(r, host, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, config->stream);
  });
}

cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  return call([&](Runtime& r) {
    Function& function = r.function(host);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)  // a hint; nothing here depends on it
      return require(value >= -1 && value <= 100, cudaErrorInvalidValue, "a carveout is a percentage, or -1");
    require(attribute == cudaFuncAttributeMaxDynamicSharedMemorySize, cudaErrorInvalidValue, "the emulator does not know this attribute");
    if (value < 0 || function.kernel->static_shared_bytes + size_t(value) > r.gpu.shared_per_block_opt_in)
      throw Failure(cudaErrorInvalidValue, "kernel " + function.name + ": " + std::to_string(value) + " bytes of dynamic and " +
                                               std::to_string(function.kernel->static_shared_bytes) +
                                               " of static shared memory, a block may have " +
                                               std::to_string(r.gpu.shared_per_block_opt_in));
    function.opted_in_shared = size_t(value);
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* host) {
  return call([&](Runtime& r) {
    const Function& function = r.function(host);
    *attributes = {};
    attributes->sharedSizeBytes = function.kernel->static_shared_bytes;
    attributes->localSizeBytes = function.kernel->local_bytes;
    attributes->maxThreadsPerBlock = threads_per_block(function, r.gpu);
    attributes->numRegs = function.registers;
    attributes->ptxVersion = function.kernel->module->target();
    attributes->binaryVersion = r.gpu.compute_capability;
    attributes->maxDynamicSharedSizeBytes =
        int(std::max(function.opted_in_shared, r.gpu.shared_per_block - function.kernel->static_shared_bytes));
    attributes->preferredShmemCarveout = -1;
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host, int block_threads, size_t dynamic_shared) {
  return call([&](Runtime& r) { occupancy(r, blocks, host, block_threads, dynamic_shared); });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* host, int block_threads, size_t dynamic_shared,
                                                                   unsigned flags) {
  return call([&](Runtime& r) {
    require(flags <= cudaOccupancyDisableCachingOverride, cudaErrorInvalidValue, "unknown occupancy flags");
    occupancy(r, blocks, host, block_threads, dynamic_shared);
  });
}
}
