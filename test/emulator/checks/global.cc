// The precise side of checks/global.h.
#include "global.h"

namespace ptxemu {

void check_global_precisely(Warp& w, uint64_t address, uint32_t bytes, int lane, Access access) {
  Block& b = *w.block;
  const uint32_t stamp = b.launch_stamp, me = block_id(b);
  const bool races = b.options->races;
  for (uint64_t at = address & ~uint64_t(1); at < address + bytes; at += 2) {
    uint32_t& cell = *b.memory->shadow(at);
    const uint32_t x = cell, other = x & 0x3ffff;
    if (!x && access != Access::write && access != Access::strong_write && b.options->uninitialised) {
      const Memory::Range* range = b.memory->find(address);
      fail(w, ErrorKind::uninitialised,
           "global memory is read that nobody has written: offset " + std::to_string(at - range->address) + " of an allocation of " +
               std::to_string(range->bytes) + " bytes",
           lane);
    }
    const bool fresh = x >> 20 == stamp;
    const CellKind kind = CellKind(x >> 18 & 3);
    const bool mine = !fresh || (other == me && kind != read_by_several) || (kind != read_by_several && b.acquired.count(other)) ||
                      (kind == shared_by_several && !b.acquired.empty());
    if (bytes == 1 && writes(access)) {
      cell = cell_of(stamp, shared_by_several, fresh && other != me ? 0x3ffff : me);
      continue;
    }
    const bool written = kind == written_by_one || kind == shared_by_several;
    const bool conflict = access == Access::read    ? fresh && written && !mine
                          : access == Access::write ? !mine
                                                    : writes(access) && !mine && kind != shared_by_several;
    if (conflict && races && !(bytes == 1 && kind == shared_by_several)) {
      const Memory::Range* range = b.memory->find(address);
      std::string who = kind == read_by_several || other == 0x3ffff ? "other blocks" : "block " + std::to_string(other);
      std::string theirs = kind == read_by_one || kind == read_by_several ? "have read"
                           : kind == written_by_one                       ? "wrote"
                                                                          : "changed by strong or atomic accesses";
      std::string mine_text = access == Access::read     ? "reads"
                              : access == Access::write  ? "writes"
                              : access == Access::atomic ? "changes atomically"
                                                         : "writes by a strong access";
      fail(w, ErrorKind::race,
           "between blocks of one launch: block " + std::to_string(b.linear) + " " + mine_text + " what " + who + " " + theirs +
               ", offset " + std::to_string(at - range->address) + " of an allocation of " + std::to_string(range->bytes) + " bytes",
           lane);
    }
    if (access == Access::write) cell = cell_of(stamp, written_by_one, me);
    else if (writes(access)) cell = cell_of(stamp, shared_by_several, fresh && kind == shared_by_several && other != me ? 0x3ffff : me);
    else if (!x || !fresh) cell = x ? cell_of(stamp, read_by_one, me) : 0;
    else if (kind == read_by_one && other != me) cell = cell_of(stamp, read_by_several, 0);
  }
}

void meet_at(Warp& w, uint64_t address, bool releases) {
  Block& b = *w.block;
  LaunchState& common = *b.common;
  releases &= b.fenced;
  if (!releases && !common.any_release) return;
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  auto& there = common.released[address];
  b.acquired.insert(there.begin(), there.end());
  if (!releases) return;
  common.any_release = true;
  there.insert(block_id(b));
  there.insert(b.acquired.begin(), b.acquired.end());
}

}  // namespace ptxemu
