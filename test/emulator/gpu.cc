// The limits of the GPUs (CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability") and of launches.
#include "machine.h"

namespace ptxemu {

namespace {
struct Figures {
  int capability;
  const char* name;
  int threads_per_sm, blocks_per_sm, shared_per_sm_kb, shared_opt_in_kb;
};
constexpr Figures figures[] = {
    {75, "RTX 2080 Ti", 1024, 16, 64, 64}, {80, "A100", 2048, 32, 164, 163},    {86, "RTX 3090", 1536, 16, 100, 99},
    {87, "Orin", 1536, 16, 164, 163},      {89, "RTX 4090", 1536, 24, 100, 99}, {90, "H100", 2048, 32, 228, 227},
    {100, "B200", 2048, 32, 228, 227},     {103, "B300", 2048, 32, 228, 227},   {110, "Thor", 1536, 24, 228, 227},
    {120, "RTX 5090", 1536, 24, 100, 99},  {121, "GB10", 1536, 24, 100, 99},
};
}  // namespace

Gpu gpu(int compute_capability) {
  for (auto& f : figures) {
    if (f.capability != compute_capability) continue;
    Gpu c;
    c.compute_capability = f.capability;
    c.name = std::string("PTX emulator (") + f.name + ")";
    c.threads_per_multiprocessor = f.threads_per_sm;
    c.blocks_per_multiprocessor = f.blocks_per_sm;
    c.shared_per_multiprocessor = size_t(f.shared_per_sm_kb) << 10;
    c.shared_per_block_opt_in = size_t(f.shared_opt_in_kb) << 10;
    c.shared_reserved_per_block = f.capability >= 80 ? 1024 : 0;
    return c;
  }
  throw Error(ErrorKind::limit, "no figures for compute capability " + std::to_string(compute_capability));
}

const char* name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::bad_ptx: return "bad PTX";
    case ErrorKind::unknown_instruction: return "unknown instruction";
    case ErrorKind::out_of_bounds: return "out of bounds";
    case ErrorKind::misaligned: return "misaligned";
    case ErrorKind::uninitialised: return "uninitialised";
    case ErrorKind::race: return "race";
    case ErrorKind::divergence: return "divergence";
    case ErrorKind::barrier: return "barrier";
    case ErrorKind::deadlock: return "deadlock";
    case ErrorKind::limit: return "limit";
    case ErrorKind::trap: return "trap";
    case ErrorKind::assertion: return "assertion";
  }
  return "?";
}

const char* name(LaunchLimit limit) {
  switch (limit) {
    case LaunchLimit::none: return "none";
    case LaunchLimit::empty_dimension: return "a dimension of 0";
    case LaunchLimit::block_dimension: return "block too large";
    case LaunchLimit::kernel_threads: return "not the number of threads that the kernel was compiled for";
    case LaunchLimit::grid_dimension: return "grid too large";
    case LaunchLimit::shared_memory: return "too much shared memory";
    case LaunchLimit::parameters: return "wrong size of the parameters";
  }
  return "?";
}

LaunchLimit check(const Launch& launch, const Gpu& gpu, size_t opted_in) {
  const Kernel& k = *launch.kernel;
  const Dim3 &g = launch.grid, &b = launch.block;
  if (!g.count() || !b.count()) return LaunchLimit::empty_dimension;
  if (b.x > 1024 || b.y > 1024 || b.z > 64 || b.count() > uint64_t(gpu.threads_per_block)) return LaunchLimit::block_dimension;
  if (g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) return LaunchLimit::grid_dimension;
  if (k.max_threads.count() && b.count() > k.max_threads.count()) return LaunchLimit::kernel_threads;
  if (k.required_threads.count() && (b.x != k.required_threads.x || b.y != k.required_threads.y || b.z != k.required_threads.z))
    return LaunchLimit::kernel_threads;
  if (k.static_shared_bytes > gpu.shared_per_block) return LaunchLimit::shared_memory;
  size_t total = k.static_shared_bytes + launch.dynamic_shared;
  if (total > gpu.shared_per_block_opt_in) return LaunchLimit::shared_memory;
  if (total > gpu.shared_per_block && launch.dynamic_shared > opted_in) return LaunchLimit::shared_memory;
  if (launch.parameters.size() != k.parameter_bytes) return LaunchLimit::parameters;
  return LaunchLimit::none;
}

}  // namespace ptxemu
