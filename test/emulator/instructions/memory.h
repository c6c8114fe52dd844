// Addresses of lanes -> bytes of the host, with every check on the way (PTX ISA, "State Spaces").
#pragma once
#include <algorithm>

#include "../checks/global.h"
#include "../checks/shared.h"
#include "lanes.h"

namespace ptxemu {

struct Addresses { alignas(64) uint64_t of[32]; };

// Base register (32 or 64 bits, in.aux bit 0) + offset.
inline void read_addresses(Warp& w, const Instruction& in, int source, Addresses& a) {
  if (in.aux & 1) {
    const uint64_t* base = lanes<uint64_t>(w, in.from(source));
    for (int i = 0; i < 32; i++) a.of[i] = base[i] + uint64_t(in.offset);
  } else {
    const uint32_t* base = lanes<uint32_t>(w, in.from(source));
    for (int i = 0; i < 32; i++) a.of[i] = uint32_t(base[i] + uint32_t(in.offset));
  }
}

// Every lane of the warp follows the one before at `step` bytes; 0 = all have the same address.
inline bool contiguous(const Addresses& a, uint64_t step) {
  uint64_t off = 0;
  for (int i = 0; i < 32; i++) off |= a.of[i] ^ (a.of[0] + uint64_t(i) * step);
  return off == 0;
}

// f(first lane, lanes) for every run of active lanes that access neighbouring elements of `step` bytes.
template <class F> inline void each_run(const Addresses& a, uint32_t mask, uint64_t step, F&& f) {
  if (mask == all_lanes && contiguous(a, step)) return f(0, 32);
  while (mask) {
    const int first = std::countr_zero(mask);
    int n = 1;
    while (first + n < 32 && mask >> (first + n) & 1 && a.of[first + n] == a.of[first] + uint64_t(n) * step) n++;
    mask &= n == 32 ? 0 : ~(((1u << n) - 1) << first);
    f(first, n);
  }
}

// The different runs of an access that reads: two lanes often want the same element, and whole runs repeat.
struct Runs {
  int count = 0;
  uint8_t first[32], lanes[32];
  bool repeated[32];  // by other lanes too
};
inline void find_runs(const Addresses& a, uint32_t mask, uint64_t step, Runs& runs) {
  runs.count = 0;
  if (mask == all_lanes && contiguous(a, step)) {
    runs.count = 1, runs.first[0] = 0, runs.lanes[0] = 32, runs.repeated[0] = false;
    return;
  }
  while (mask) {
    const int first = std::countr_zero(mask);
    const uint64_t address = a.of[first];
    int n = 1, taken = 1;
    while (first + n < 32 && mask >> (first + n) & 1 && a.of[first + n] == address + uint64_t(n) * step) n++;
    if (n == 1)
      while (first + taken < 32 && mask >> (first + taken) & 1 && a.of[first + taken] == address) taken++;
    const int end = std::max(n, taken);
    mask &= end == 32 ? 0 : ~(((1u << end) - 1) << first);
    int known = 0;
    while (known < runs.count && (a.of[runs.first[known]] != address || runs.lanes[known] != n)) known++;
    if (known < runs.count) {
      runs.repeated[known] = true;
      continue;
    }
    runs.first[known] = uint8_t(first), runs.lanes[known] = uint8_t(n), runs.repeated[known] = taken > 1;
    runs.count++;
  }
}

[[noreturn]] void fail_global(Warp& w, uint64_t address, uint32_t bytes, int lane);
[[noreturn]] void fail_shared(Warp& w, uint64_t offset, uint32_t bytes, int lane);
// Atomics and strong accesses to global memory: blocks speak to each other, so a sample of them cannot stand for all.
inline void needs_all_blocks(const Warp& w, int lane) {
  if (w.block->options->sample > 1)
    fail(w, ErrorKind::limit, "blocks that speak to each other in global memory cannot be sampled (Options::sample)", lane);
}
[[noreturn]] void fail_misaligned(Warp& w, const char* space, uint64_t address, uint32_t bytes, int lane);

// Where the bytes of a global access lie; checked against the allocation that this instruction met last, then against all. The access may
// be a run of lanes, each with its share of the bytes.
std::byte* find_global(Warp& w, uint64_t address, uint32_t bytes, int lane, bool& device, int lanes);
inline std::byte* global_bytes(Warp& w, uint64_t address, uint32_t bytes, int lane, bool& device, int lanes = 1) {
  Block& b = *w.block;
  const Memory::Range& hint = b.range_hint[w.current - b.program->code.data()];
  device = true;
  if (address - hint.address < hint.bytes && bytes <= hint.bytes - (address - hint.address)) [[likely]]
    return b.memory->backing(address);
  return find_global(w, address, bytes, lane, device, lanes);
}

inline char* shared_bytes(Warp& w, uint64_t offset, uint32_t bytes, int lane) {
  Block& b = *w.block;
  if (offset + bytes > b.shared.size() || offset > b.shared.size()) [[unlikely]]
    fail_shared(w, offset, bytes, lane);
  return b.shared.data() + offset;
}
inline char* local_bytes(Warp& w, uint64_t offset, uint32_t bytes, int lane) {
  Block& b = *w.block;
  const size_t size = b.program->local_bytes;
  if (offset + bytes > size || offset > size)
    fail(w, ErrorKind::out_of_bounds, "local memory offset " + std::to_string(offset) + " of " + std::to_string(size), lane);
  return b.local.data() + size_t(w.id * 32 + lane) * size + offset;
}

void count_global(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes, bool store);
void count_shared(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes,
                  bool one_run = false);  // all lanes read from one run of elements

}  // namespace ptxemu
