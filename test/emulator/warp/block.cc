// One block: its memory, its warps, their turns (PTX ISA, "Cooperative Thread Arrays", "Special Registers").
#include <algorithm>
#include <numeric>

#include "../instructions/lanes.h"

namespace ptxemu {
namespace {

uint32_t constant_special(Special special, int lane, const Block& b) {
  const Launch& l = *b.launch;
  switch (special) {
    case Special::laneid: return uint32_t(lane);
    case Special::lanemask_eq: return 1u << lane;
    case Special::lanemask_lt: return (1u << lane) - 1;
    case Special::lanemask_le: return ((1u << lane) - 1) | 1u << lane;
    case Special::lanemask_gt: return ~(((1u << lane) - 1) | 1u << lane);
    case Special::lanemask_ge: return ~((1u << lane) - 1);
    case Special::ntid_x: return l.block.x;
    case Special::ntid_y: return l.block.y;
    case Special::ntid_z: return l.block.z;
    case Special::nctaid_x: return l.grid.x;
    case Special::nctaid_y: return l.grid.y;
    case Special::nctaid_z: return l.grid.z;
    case Special::nwarpid: return uint32_t((l.block.count() + 31) / 32);
    case Special::nsmid: return uint32_t(b.gpu->multiprocessors);
    case Special::gridid: return b.launch_stamp;
    case Special::dynamic_smem_size: return uint32_t(l.dynamic_shared);
    case Special::total_smem_size: return uint32_t(b.shared.size());
    default: return 0;
  }
}

uint32_t warp_special(Special special, int lane, const Warp& w) {
  const Block& b = *w.block;
  const Dim3& size = b.launch->block;
  uint32_t thread = uint32_t(w.id * 32 + lane);
  switch (special) {
    case Special::tid_x: return thread % size.x;
    case Special::tid_y: return thread / size.x % size.y;
    case Special::tid_z: return thread / size.x / size.y;
    case Special::warpid: return uint32_t(w.id);
    case Special::ctaid_x: return b.index.x;
    case Special::ctaid_y: return b.index.y;
    case Special::ctaid_z: return b.index.z;
    case Special::smid: return uint32_t(b.linear % uint64_t(b.gpu->multiprocessors));
    default: return 0;
  }
}

bool changes_with_block(Special s) { return s >= Special::ctaid_x && s <= Special::smid; }

void fill_specials(Warp& w, bool first) {
  for (auto& [offset, special] : w.block->program->warp_specials) {
    if (!first && !changes_with_block(special)) continue;
    uint32_t* to = reinterpret_cast<uint32_t*>(w.bank[specials] + offset);
    for (int lane = 0; lane < 32; lane++) to[lane] = warp_special(special, lane, w);
  }
}

void start_warp(Warp& w) {
  Block& b = *w.block;
  uint64_t threads = b.launch->block.count(), first = uint64_t(w.id) * 32;
  w.alive = threads - first >= 32 ? all_lanes : (1u << (threads - first)) - 1;
  w.groups.assign(1, {0, w.alive, false});
  w.at_barrier = w.done = false;
  w.current = nullptr;
  w.open_copies = {};
  w.copy_groups.clear();
  w.stamp = 1;
  w.seen_of_all = 0;
  std::fill(std::begin(w.seen), std::end(w.seen), 0);
  for (uint32_t at : b.program->poisoned) {
    uint32_t* slot = reinterpret_cast<uint32_t*>(w.bank[registers] + at);
    std::fill(slot, slot + 32, 0xdeadbeefu);
  }
  std::memset(w.bank[predicates], 0, b.program->predicate_bytes);
  predicate(w, operand_of(predicates, 4)) = all_lanes;
  fill_specials(w, false);
}

}  // namespace

void prepare_block(Block& b, const Program& program, const Launch& launch) {
  b.program = &program;
  b.launch = &launch;
  b.range_hint.assign(program.code.size(), {});
  b.barriers.assign(16, {});
  b.shared.resize(program.dynamic_shared_at + launch.dynamic_shared);
  if (!launch.dynamic_shared) b.shared.resize(program.static_shared);
  size_t cells = b.shared.size() / program.shadow_unit + 32;
  b.written.resize(cells);
  b.read.resize(cells);
  b.constants.assign(program.constant_bytes / 4, 0);
  for (size_t i = 0; i < program.immediates.size(); i++) {
    auto [at, bits] = program.immediates[i];
    char* to = reinterpret_cast<char*>(b.constants.data()) + at;
    for (int lane = 0; lane < 32; lane++) {
      if (program.immediate_wide[i].second) reinterpret_cast<uint64_t*>(to)[lane] = bits;
      else reinterpret_cast<uint32_t*>(to)[lane] = uint32_t(bits);
    }
  }
  for (auto& [at, special] : program.constant_specials)
    for (int lane = 0; lane < 32; lane++) b.constants[at / 4 + lane] = constant_special(special, lane, b);
  size_t warps = (launch.block.count() + 31) / 32;
  b.local.resize(warps * 32 * program.local_bytes);
  b.warps = std::vector<Warp>(warps);
  auto aligned = [](size_t n) { return (n + 63) / 64 * 64; };
  for (size_t i = 0; i < warps; i++) {
    Warp& w = b.warps[i];
    w.block = &b;
    w.id = int(i);
    w.file.resize(aligned(program.register_bytes) + aligned(program.special_bytes) + program.predicate_bytes + 64);
    w.bank[registers] = reinterpret_cast<char*>(aligned(reinterpret_cast<size_t>(w.file.data())));
    w.bank[constants] = reinterpret_cast<char*>(b.constants.data());
    w.bank[specials] = w.bank[registers] + aligned(program.register_bytes);
    w.bank[predicates] = w.bank[specials] + aligned(program.special_bytes);
    fill_specials(w, true);
  }
}

void run_block(Block& b) {
  std::fill(b.shared.begin(), b.shared.end(), char(0xcd));
  std::fill(b.written.begin(), b.written.end(), 0);
  std::fill(b.read.begin(), b.read.end(), 0);
  std::fill(b.local.begin(), b.local.end(), char(0xcd));
  for (auto& barrier : b.barriers) barrier.arrived.clear();
  b.clock = 1;
  b.executed = 0;
  b.fenced = false;
  b.acquired.clear();
  for (auto& w : b.warps) start_warp(w);
  b.counters->blocks++;
  b.counters->warps += b.warps.size();

  std::vector<int> order(b.warps.size());
  std::iota(order.begin(), order.end(), 0);
  if (b.options->warp_order == Order::backward) std::reverse(order.begin(), order.end());
  uint64_t random = b.options->seed * 0x9e3779b97f4a7c15 + b.linear * 0xbf58476d1ce4e5b9 + 1;
  for (;;) {
    if (b.options->warp_order == Order::random)
      for (size_t i = order.size(); i > 1; i--) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        std::swap(order[i - 1], order[(random >> 33) % i]);
      }
    bool ran = false, alive = false;
    for (int i : order) {
      Warp& w = b.warps[i];
      if (w.done || w.at_barrier) continue;
      run_warp(w);
      ran = true;
    }
    bool opened = open_barriers(b);
    for (auto& w : b.warps) alive |= !w.done;
    if (!alive) return;
    if (ran || opened) continue;
    std::string waiting;
    for (auto& w : b.warps)
      if (w.at_barrier)
        waiting += " warp " + std::to_string(w.id) + " at barrier " + std::to_string(w.barrier) +
                   (w.barrier_threads ? " for " + std::to_string(w.barrier_threads) + " threads;" : ";");
    for (auto& w : b.warps)
      if (w.at_barrier) fail(w, ErrorKind::deadlock, "no warp of the block can go on:" + waiting);
  }
}

}  // namespace ptxemu
