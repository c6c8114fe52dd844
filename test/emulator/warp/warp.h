// What the instructions work on: a warp of 32 lanes with its register file, the block it belongs to, and one decoded instruction.
// A register is an array of 32 lanes, [32] u32 or [32] u64; a predicate is a 32-bit mask. Values of 8 and 16 bits fill a u32, upper bits 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../machine.h"
#include "../ptx.h"

namespace ptxemu {

struct Warp;
struct Block;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&, uint32_t mask);

constexpr uint32_t all_lanes = ~0u;

// An operand is a byte offset in one of four banks; the bank is its two upper bits.
enum Bank : uint32_t { registers = 0, constants = 1, specials = 2, predicates = 3 };
constexpr uint32_t operand_of(Bank bank, uint32_t offset) { return uint32_t(bank) << 30 | offset; }
constexpr uint32_t no_operand = ~0u;

enum class Flow : uint8_t {
  next,          // run() and on to the next instruction
  branch,        // to `target`
  branch_index,  // brx.idx: to tables[target][source 0]
  exit,
  call,           // sets the link register (target 0), goes to `target`
  ret,            // to the link register (source 0)
  block_barrier,  // waits for other warps
  collective,     // source `member_mask` names the lanes that must be here
};

struct Instruction {
  Handler run = nullptr;
  int64_t offset = 0;           // of an address; or an immediate
  uint32_t operand[14];         // targets, then sources
  uint32_t guard = no_operand;  // predicate
  int32_t target = 0;
  uint16_t aux = 0;  // meaning is the handler's
  Flow flow = Flow::next;
  uint8_t targets = 0, sources = 0;
  bool guard_negated = false;
  uint8_t width = 0, count = 0;  // of an access: bytes per element, elements
  uint8_t member_mask = 0;       // collective: which source
  uint8_t flops = 0;
  uint8_t special = 0;  // 1 = the unit for special functions and conversions executes it

  uint32_t to(int i) const { return operand[i]; }
  uint32_t from(int i) const { return operand[targets + i]; }
};

struct Line {
  int ptx_line;
  std::string text;
  Location location;
};

// A special register or launch constant whose lanes are filled before the program runs.
enum class Special : uint8_t {
  tid_x,
  tid_y,
  tid_z,
  warpid,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  smid,  // of a warp or block
  laneid,
  lanemask_eq,
  lanemask_le,
  lanemask_lt,
  lanemask_ge,
  lanemask_gt,  // fixed
  ntid_x,
  ntid_y,
  ntid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  nwarpid,
  nsmid,
  gridid,
  dynamic_smem_size,
  total_smem_size,
  zero,  // of a launch
};

struct Program {
  std::vector<Instruction> code;
  std::vector<Line> lines;                                // [pc]
  std::vector<std::vector<int>> tables;                   // of brx.idx
  std::vector<std::pair<uint32_t, uint64_t>> immediates;  // offset in the constant bank, bits
  std::vector<std::pair<uint32_t, bool>> immediate_wide;  // the same order: 64-bit lanes?
  std::vector<std::pair<uint32_t, Special>> constant_specials, warp_specials;
  std::vector<uint32_t> poisoned;  // 128-byte slots of the register file that may be read before they are written
  size_t register_bytes = 0, constant_bytes = 0, special_bytes = 0, predicate_bytes = 0;
  size_t static_shared = 0;
  size_t dynamic_shared_at = 0;  // where extern shared arrays start
  size_t local_bytes = 0;
  size_t shadow_unit = 16;  // bytes of shared memory per race cell: the smallest access
  const std::map<int, std::string>* files = nullptr;
};

// Generic addresses of shared, local and parameter memory: windows that no allocation reaches.
constexpr uint64_t shared_window = 0x7e0000000000, local_window = 0x7d0000000000, param_window = 0x7c0000000000;
constexpr uint64_t window_mask = ~uint64_t(0xffffffff);

struct Group {
  int pc;
  uint32_t mask;
  bool parked;  // a collective or barrier waits for lanes that are elsewhere
};

struct PendingCopy {
  uint32_t lane, to, bytes, source_bytes;
  uint64_t from;
  const Instruction* issued;
};
struct CopyGroup {
  uint32_t mask = 0;
  std::vector<PendingCopy> copies;
};

struct Warp {
  char* bank[4];
  Block* block = nullptr;
  const Instruction* current = nullptr;
  uint32_t alive = 0;
  uint32_t carry = 0;  // CC.CF of every lane
  int id = 0;
  int32_t stamp = 0;        // time of its last synchronisation (checks/shared.h)
  int32_t seen[32];         // accesses of warp v up to this time happened before
  int32_t seen_of_all = 0;  // the least of them
  std::vector<Group> groups;
  bool at_barrier = false, done = false;
  int barrier = 0;                         // where it waits
  uint32_t barrier_threads = 0;            // 0 = all of the block
  const Instruction* reduction = nullptr;  // bar.red: gets the result when the barrier opens
  uint32_t reduction_mask = 0;
  std::vector<PendingCopy> open_copies;  // cp.async before its commit_group
  std::vector<CopyGroup> copy_groups;
  std::vector<char> file;  // registers, specials, predicates
};

struct BarrierState { std::vector<int> arrived; };  // warps that said bar.arrive

// What the blocks of one launch, run by several host threads, have in common.
struct LaunchState {
  std::mutex atomics;  // atomics of different blocks, when there is more than one host thread
  bool concurrent = false;
  std::atomic<bool> any_release{false};
  std::map<uint64_t, std::set<uint64_t>> released;  // by address: blocks whose earlier writes an atomic there makes visible
};

struct Block {
  const Program* program = nullptr;
  const Launch* launch = nullptr;
  const Gpu* gpu = nullptr;
  const Options* options = nullptr;
  Memory* memory = nullptr;
  KernelCounters* counters = nullptr;
  Dim3 index;
  uint64_t linear = 0;
  uint32_t launch_stamp = 0;
  int32_t clock = 0;  // of the stamps
  std::vector<char> shared;
  std::vector<int32_t> written, read;     // a race cell each per shadow_unit bytes of shared memory (checks/shared.h)
  std::vector<uint32_t> constants;        // the bank of immediates
  std::vector<char> local;                // [thread][local_bytes]
  std::vector<Memory::Range> range_hint;  // [pc] the allocation that it met last
  std::vector<BarrierState> barriers;
  std::vector<Warp> warps;
  LaunchState* common = nullptr;
  std::set<uint64_t> acquired;  // blocks whose writes happened before: an atomic after their fence (checks/global.cc)
  bool fenced = false;
  bool checks_global = true;  // races between blocks and reads of what nobody wrote; not where a sample runs
  uint64_t executed = 0;      // warp instructions of this block
};

void run_warp(Warp& warp);  // until it ends, waits for the block or has had its turn (warp/scheduler.cc)
void prepare_block(Block& block, const Program& program, const Launch& launch);  // warp/block.cc
void run_block(Block& block);
bool open_barriers(Block& block);  // warp/barrier.cc
void synchronise(Block& block, const std::vector<int>& from,
                 const std::vector<int>& to);  // accesses of `from` so far happened before those of `to`
void synchronise_lanes(Warp& warp);

[[noreturn]] void fail(const Warp& warp, ErrorKind kind, const std::string& message, int lane = -1);

}  // namespace ptxemu
