// A machine that executes PTX, the code that nvcc emitted, on the CPU and checks every access that it makes.
// This is the whole public face of the core: memory, modules, launches, counters. The CUDA runtime API lies on top (runtime/).
// Sources: PTX ISA 9.0; CUDA C++ Programming Guide, "Compute Capabilities" (the limits of the GPUs).
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace ptxemu {

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

enum class ErrorKind {
  bad_ptx,
  unknown_instruction,
  out_of_bounds,
  misaligned,
  uninitialised,
  race,
  divergence,
  barrier,
  deadlock,
  limit,
  trap,
  assertion
};
const char* name(ErrorKind kind);

// what() = what happened, then kernel, block, thread, the PTX line with its text and the line of the .cu file, as far as they are known.
struct Error : std::runtime_error {
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind(kind) {}
  ErrorKind kind;
  std::string kernel;
  Dim3 block{0, 0, 0};
  int thread = -1;     // linear index in the block
  int ptx_line = 0;    // from 1; 0 = not known
  std::string source;  // "file:line" of .loc
};

// ---- the emulated GPU ----

struct Gpu {
  int compute_capability = 75;  // 10 * major + minor
  std::string name;
  size_t memory_bytes = size_t(4) << 30;
  int multiprocessors = 4;
  int threads_per_block = 1024;
  int threads_per_multiprocessor = 1024;
  int blocks_per_multiprocessor = 16;
  size_t shared_per_block = 48 << 10;         // without asking
  size_t shared_per_block_opt_in = 64 << 10;  // cudaFuncAttributeMaxDynamicSharedMemorySize and static together
  size_t shared_per_multiprocessor = 64 << 10;
  size_t shared_reserved_per_block = 0;
  int registers_per_multiprocessor = 65536;
  int registers_per_thread = 255;
  size_t l2_bytes = 4 << 20;
  size_t constant_bytes = 64 << 10;
};
// The limits of 75, 80, 86, 87, 89, 90, 100, 103, 110, 120 or 121; throws Error(limit) for any other.
Gpu gpu(int compute_capability);

// ---- how it executes ----

enum class Order { forward, backward, random };
enum class MmaRounding {
  sequential,  // one f32 fused multiply-add per product, in order of k
  truncated,   // as tensor cores do: groups of exact products and the sum so far, aligned to the largest, cut to 24 bits
};

struct Options {
  Order warp_order = Order::forward;
  Order block_order = Order::forward;
  uint64_t seed = 0;  // of random orders and of the jitter
  MmaRounding mma = MmaRounding::sequential;
  bool jitter = false;  // approximate instructions (ex2.approx, ...) are off by as much as the ISA allows, a function of operand and seed
  bool races = true;    // shared memory between warps and lanes, global memory between blocks
  bool uninitialised = true;
  bool counters = true;
  int threads = 2;  // of the host; the blocks of a launch are shared out
  int sample = 1;   // above 1: only some blocks run, about one in so many, and their counts are scaled up (warp/sample.h)
  uint64_t max_instructions = uint64_t(1) << 36;  // warp instructions of one block, then Error(limit)
};

// ---- device memory ----

// Device addresses are no host addresses: the host that follows one crashes, as with a GPU. Fresh memory holds 0xFF and counts as
// uninitialised until it is written. Between allocations lie gaps, and an address is reused only when the whole range has been used.
class Memory {
 public:
  struct Range {
    uint64_t address = 0;
    size_t bytes = 0;
  };

  // tracked: it is kept which bytes the host has written, in twice as much memory of the host.
  explicit Memory(size_t capacity_bytes, bool tracked = true);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint64_t allocate(size_t bytes);                      // 256-byte aligned; 0 = does not fit
  bool release(uint64_t address);                       // false = no allocation starts here
  const Range* find(uint64_t address) const;            // the live allocation that contains the address, or nullptr
  bool contains(uint64_t address, size_t bytes) const;  // wholly inside one allocation
  bool reserved(uint64_t address) const { return address - base_ < reserved_; }  // a device address, allocated now or not
  std::vector<Range> allocations() const;
  size_t used_bytes() const { return used_; }
  size_t capacity_bytes() const { return capacity_; }

  // Transfers by the host. They throw Error(out_of_bounds) where a range leaves its allocation.
  void write(uint64_t to, const void* from, size_t bytes);
  void read(void* to, uint64_t from, size_t bytes) const;
  void copy(uint64_t to, uint64_t from, size_t bytes);  // what is uninitialised stays so
  void fill(uint64_t to, unsigned char value, size_t bytes);
  std::byte* backing(uint64_t address) const { return reinterpret_cast<std::byte*>(address + backing_offset_); }

  void mark_initialised(uint64_t address, size_t bytes);
  // Offset of the first byte never written, or `bytes`.
  size_t first_uninitialised(uint64_t address, size_t bytes) const;

  // Pinned host memory: kernels may touch it only if it is mapped.
  void register_host(void* address, size_t bytes, bool mapped);
  bool unregister_host(void* address);
  const Range* find_host(uint64_t address, bool* mapped = nullptr) const;

  // For the executor: one 32-bit cell per 2 bytes (checks/global.h).
  uint32_t* shadow(uint64_t address) const { return shadow_ + (address - base_) / 2; }
  uint32_t next_launch();  // stamp of this launch in the shadow cells

 private:
  void check(uint64_t address, size_t bytes, const char* what) const;

  struct HostRange {
    Range range;
    bool mapped;
  };
  size_t capacity_, used_ = 0;
  bool tracked_;
  uint64_t base_ = 0, reserved_ = 0, next_ = 0;
  int64_t backing_offset_ = 0;
  uint32_t* shadow_ = nullptr;
  uint32_t launch_ = 0;
  std::map<uint64_t, Range> allocations_;
  std::map<uint64_t, HostRange> host_;
};

// ---- code ----

struct Parameter {
  std::string name;
  size_t offset, bytes;
};

class Module;
struct Program;  // the decoded instructions

class Kernel {
 public:
  std::string name;
  std::vector<Parameter> parameters;
  size_t parameter_bytes = 0;
  size_t static_shared_bytes = 0;
  size_t local_bytes = 0;          // declared by PTX
  Dim3 max_threads{0, 0, 0};       // .maxntid, 0 = not given
  Dim3 required_threads{0, 0, 0};  // .reqntid
  int min_blocks = 0;              // .minnctapersm
  const Module* module = nullptr;
};

struct Variable {
  std::string name;
  uint64_t address = 0;
  size_t bytes = 0;
  bool constant = false;
};

class Module {
 public:
  // Throws Error(bad_ptx) for text that cannot be read. An instruction that is not known is an error of its kernel's first launch only.
  static std::unique_ptr<Module> parse(const std::string& ptx, const std::string& name);
  ~Module();

  // Gives .global and .const variables device memory and their initial values; once, before the first launch.
  void load(Memory& memory);
  void unload(Memory& memory);

  const std::string& name() const;
  int target() const;                                   // 75 for .target sm_75
  const Kernel* kernel(const std::string& name) const;  // nullptr = none of this name
  std::vector<const Kernel*> kernels() const;
  const Variable* variable(const std::string& name) const;  // after load
  // Decodes the kernel now and throws what its first launch would throw.
  void decode(const Kernel& kernel) const;
  // Opcodes of this kernel with how often each stands in its text: mutation tests and static evidence.
  std::map<std::string, int> opcodes(const Kernel& kernel) const;

  struct State;
  State& state() const { return *state_; }

 private:
  Module();
  std::unique_ptr<State> state_;
};

// ---- counters ----

struct KernelCounters {
  uint64_t launches = 0, blocks = 0, warps = 0;
  uint64_t blocks_run = 0;  // fewer than `blocks` where a sample ran
  uint64_t warp_instructions = 0, thread_instructions = 0;
  uint64_t mma_k8 = 0;    // tensor-core products in units of m16n8k8 (2048 floating-point operations)
  uint64_t flops = 0;     // of ordinary instructions, fma = 2, per active thread; f16x2 counts both halves
  uint64_t special = 0;   // warp instructions: special functions, divisions, conversions to narrower floats, from and to integers
  uint64_t barriers = 0;  // bar.sync executed by a warp
  uint64_t global_load_bytes = 0, global_store_bytes = 0;      // asked for by threads
  uint64_t global_load_sectors = 0, global_store_sectors = 0;  // of 32 bytes, each counted once per warp instruction
  uint64_t global_requests = 0;                                // warp instructions
  uint64_t shared_requests = 0;                                // warp instructions
  uint64_t shared_passes = 0;                                  // transactions if no two lanes met in a bank
  uint64_t shared_conflicts = 0;                               // transactions more than that
  uint64_t local_requests = 0;                                 // spills or arrays in local memory; should be 0
  uint64_t atomics = 0;
  void add(const KernelCounters& other, uint64_t times = 1, uint64_t by = 1);  // other * times / by, rounded
  std::string json() const;
};

struct Counters {
  std::map<std::string, KernelCounters> kernels;
  std::map<std::string, KernelCounters> sampled;  // launches that need not run again: they differ in addresses only (warp/sample.h)
  std::string json() const;
};

// ---- launches ----

struct Launch {
  const Kernel* kernel = nullptr;
  Dim3 grid, block;
  size_t dynamic_shared = 0;
  std::vector<std::byte> parameters;  // parameter_bytes of them, laid out as Kernel::parameters says
};

enum class LaunchLimit {
  none,
  empty_dimension,  // a grid or block dimension of 0
  block_dimension,  // x, y > 1024 or z > 64, or more threads than the GPU takes
  kernel_threads,   // more than .maxntid, or other than .reqntid
  grid_dimension,   // y, z > 65535, x > 2^31 - 1
  shared_memory,    // static + dynamic above 48 KB and above what was opted in
  parameters,       // not as many bytes as the kernel takes
};
const char* name(LaunchLimit limit);
// opted_in: the dynamic shared bytes allowed by cudaFuncAttributeMaxDynamicSharedMemorySize (0 = not set).
LaunchLimit check(const Launch& launch, const Gpu& gpu, size_t opted_in);

// Executes the launch to its end, adds to the counters what it counted and returns that. Throws Error for what the kernel did wrong.
KernelCounters run(const Launch& launch, Memory& memory, const Gpu& gpu, const Options& options, Counters& counters);

}  // namespace ptxemu
