// One warp: groups of lanes that share a program counter. The group with the lowest counter runs, groups meet where counters are equal,
// which is where nvcc's code reconverges. A collective waits until the lanes that it names have come.
#include <algorithm>
#include <bit>
#include <climits>

#include "../instructions/lanes.h"

namespace ptxemu {
namespace {

constexpr int turn = 1 << 14;  // branches before another group or warp gets its turn: somebody may be spinning

void merge(std::vector<Group>& groups) {
  for (size_t i = 0; i < groups.size(); i++)
    for (size_t j = groups.size() - 1; j > i; j--)
      if (groups[j].pc == groups[i].pc) {
        groups[i].mask |= groups[j].mask;
        groups[i].parked = false;
        groups.erase(groups.begin() + j);
      }
}

[[noreturn]] void fail_partial_barrier(Warp& w, const Instruction& in, uint32_t mask) {
  char text[80];
  w.current = &in;
  std::snprintf(text, sizeof text, "lanes %08x came, lanes %08x are alive", mask, w.alive);
  fail(w, ErrorKind::divergence, std::string("a barrier of the block executed by a part of the warp: ") + text,
       std::countr_zero(mask ? mask : w.alive));
}

void arrive_at_barrier(Warp& w, const Instruction& in, uint32_t mask) {
  Block& b = *w.block;
  w.current = &in;
  if (mask != w.alive) fail_partial_barrier(w, in, mask);
  uint32_t id = lanes<uint32_t>(w, in.from(0))[std::countr_zero(mask)];
  uint32_t threads = in.count > 1 ? lanes<uint32_t>(w, in.from(1))[std::countr_zero(mask)] : 0;
  if (id > 15) fail(w, ErrorKind::barrier, "barrier " + std::to_string(id) + ": there are 16");
  if (threads % 32) fail(w, ErrorKind::barrier, "a barrier for " + std::to_string(threads) + " threads: not a multiple of 32");
  b.counters->barriers++;
  w.barrier = int(id);
  w.barrier_threads = threads;
  if (in.aux == 1) {  // arrive: goes on
    b.barriers[id].arrived.push_back(w.id);
    w.barrier_threads = 0;
    return;
  }
  w.reduction = in.aux >= 2 ? &in : nullptr;
  w.reduction_mask = mask;
  w.at_barrier = true;
}

// barrier.sync without .aligned: the lanes of a warp may come to it from several places, one after the other.
bool gather_at_barrier(Warp& w) {
  const Instruction* first = nullptr;
  for (auto& g : w.groups) {
    const Instruction& in = w.block->program->code[g.pc];
    if (in.flow != Flow::block_barrier || in.aux) return false;
    if (in.width) fail_partial_barrier(w, in, g.mask);  // .aligned: the others went elsewhere, or have ended without it
    auto id = [&](const Instruction& i) { return lanes<uint32_t>(w, i.from(0))[std::countr_zero(g.mask)]; };
    if (first && id(*first) != id(in)) return false;
    first = &in;
  }
  for (auto& g : w.groups) g.pc++, g.parked = false;
  arrive_at_barrier(w, *first, w.alive);
  return true;
}

// All groups wait. bar.warp.sync may stand at different places; any other collective has named lanes that never come.
void release_parked(Warp& w) {
  auto warp_sync = [](const Instruction& in) { return in.flow == Flow::collective && in.aux == 1; };
  uint32_t together = 0;
  for (auto& g : w.groups) together |= warp_sync(w.block->program->code[g.pc]) ? g.mask : 0;
  bool any = false;
  for (auto& g : w.groups) {
    const Instruction& in = w.block->program->code[g.pc];
    if (!warp_sync(in)) continue;
    uint32_t named = lanes<uint32_t>(w, in.from(in.member_mask))[std::countr_zero(g.mask)];
    if (named & w.alive & ~together) continue;
    g.parked = false, g.pc++;
    any = true;
  }
  if (any) return synchronise_lanes(w);
  Group& g = w.groups.front();
  w.current = &w.block->program->code[g.pc];
  char text[64];
  std::snprintf(text, sizeof text, "lanes %08x are here, lanes %08x are alive", g.mask, w.alive);
  fail(w, ErrorKind::divergence, std::string("a collective names lanes that do not come to it: ") + text, std::countr_zero(g.mask));
}

// True if the group may go on with the collective now.
bool collective_ready(Warp& w, const Instruction& in, uint32_t mask) {
  if (!mask) return true;
  const uint32_t* members = lanes<uint32_t>(w, in.from(in.member_mask));
  bool ready = true;
  each_active(mask, [&](int lane) {
    w.current = &in;
    if (!(members[lane] >> lane & 1))
      fail(w, ErrorKind::divergence, "a lane executes a collective whose member mask does not name it", lane);
    if (members[lane] & w.alive & ~mask) ready = false;
  });
  return ready;
}

}  // namespace

void run_warp(Warp& w) {
  const Program& program = *w.block->program;
  const Instruction* code = program.code.data();
  uint64_t executed = 0, threads = 0, flops = 0, special = 0;
  int branches = 0;
  bool rotate = false;
  auto account = [&] {
    KernelCounters& c = *w.block->counters;
    c.warp_instructions += executed, c.thread_instructions += threads, c.flops += flops, c.special += special;
    w.block->executed += executed;
    executed = threads = flops = special = 0;
  };
  for (;;) {
    if (w.groups.size() > 1) merge(w.groups);
    if (w.groups.empty()) {
      w.done = true;
      return account();
    }
    int chosen = -1, stop = INT_MAX;
    for (size_t i = 0; i < w.groups.size(); i++)
      if (!w.groups[i].parked && (chosen < 0 || (w.groups[i].pc < w.groups[chosen].pc) != rotate)) chosen = int(i);
    if (chosen < 0) {
      if (gather_at_barrier(w)) return account();
      release_parked(w);
      continue;
    }
    if (!rotate)
      for (size_t i = 0; i < w.groups.size(); i++)
        if (int(i) != chosen && w.groups[i].pc > w.groups[chosen].pc) stop = std::min(stop, w.groups[i].pc);
    rotate = false;
    int pc = w.groups[chosen].pc;
    uint32_t mask = w.groups[chosen].mask;
    auto leave = [&](int at) { w.groups[chosen].pc = at, w.groups[chosen].mask = mask; };

    for (;;) {
      if (pc >= stop) {
        leave(pc);
        break;
      }
      const Instruction& in = code[pc];
      uint32_t m = mask;
      if (in.guard != no_operand) m &= in.guard_negated ? ~predicate(w, in.guard) : predicate(w, in.guard);
      if (in.flow == Flow::next) [[likely]] {
        if (m) {
          w.current = &in;
          in.run(w, in, m);
          executed++;
          uint32_t active = uint32_t(std::popcount(m));
          threads += active, flops += active * in.flops, special += in.special;
        }
        pc++;
        continue;
      }
      w.current = &in;
      executed++;
      if (in.flow != Flow::collective && in.flow != Flow::block_barrier) threads += uint32_t(std::popcount(m));
      if (in.flow == Flow::branch) {
        if (m == mask) {
          pc = in.target;
        } else if (!m) {
          pc++;
        } else {
          mask &= ~m;
          leave(pc + 1);
          w.groups.push_back({in.target, m, false});
          break;
        }
        if (++branches == turn) {
          leave(pc);
          account();
          if (w.block->executed > w.block->options->max_instructions)
            fail(w, ErrorKind::limit,
                 "the block has executed more than " + std::to_string(w.block->options->max_instructions) + " instructions");
          if (w.groups.size() == 1) return;
          rotate = true, branches = 0;
          break;
        }
      } else if (in.flow == Flow::exit) {
        w.alive &= ~m;
        mask &= ~m;
        leave(pc + 1);
        if (!mask) {
          w.groups.erase(w.groups.begin() + chosen);
          break;
        }
        pc++;
      } else if (in.flow == Flow::collective) {
        if (!collective_ready(w, in, m)) {
          leave(pc);
          w.groups[chosen].parked = true;
          break;
        }
        if (m) in.run(w, in, m), threads += uint32_t(std::popcount(m));
        pc++;
      } else if (in.flow == Flow::block_barrier) {
        if (m && m != w.alive && !in.aux && m == mask) {  // lanes whose code lies further on may be on their way here
          leave(pc);
          w.groups[chosen].parked = true;
          break;
        }
        if (m) arrive_at_barrier(w, in, m), threads += uint32_t(std::popcount(m));
        pc++;
        if (w.at_barrier) {
          leave(pc);
          return account();
        }
      } else {  // call, ret, brx.idx: every lane has its own target
        if (in.flow == Flow::call) {
          uint32_t* link = lanes<uint32_t>(w, in.to(0));
          each_active(m, [&](int lane) { link[lane] = uint32_t(pc + 1); });
        }
        uint32_t rest = m;
        mask &= ~m;
        leave(pc + 1);
        while (rest) {
          int lane = std::countr_zero(rest);
          uint32_t there = 0;
          const uint32_t* value = in.flow == Flow::call ? nullptr : lanes<uint32_t>(w, in.from(0));
          each_active(rest, [&](int i) { there |= !value || value[i] == value[lane] ? 1u << i : 0; });
          int to = in.target;
          if (in.flow == Flow::ret) to = int(value[lane]);
          if (in.flow == Flow::branch_index) {
            const std::vector<int>& table = program.tables[in.target];
            if (value[lane] >= table.size())
              fail(w, ErrorKind::out_of_bounds,
                   "brx.idx: index " + std::to_string(value[lane]) + " in a table of " + std::to_string(table.size()), lane);
            to = table[value[lane]];
          }
          w.groups.push_back({to, there, false});
          rest &= ~there;
        }
        if (!mask) w.groups.erase(w.groups.begin() + chosen);
        break;
      }
    }
  }
}

}  // namespace ptxemu
