// Global memory between the blocks of one launch, and reads of what nobody has written. One cell per 2 bytes:
//   stamp of the launch << 20 | kind << 18 | block, 0 = never written.
// Two blocks conflict when one writes what the other reads or writes in the same launch; atomics and strong accesses (.volatile, .relaxed,
// .acquire, .release) do not, and an atomic after a fence hands over what the block has written ("threadfence reduction").
// Bytes written one by one by several blocks are not told apart.
#pragma once
#include "../warp/warp.h"
#include "shared.h"

namespace ptxemu {

enum CellKind : uint32_t { read_by_one, read_by_several, written_by_one, shared_by_several };
constexpr uint32_t cell_written_by_host = 1;
constexpr uint32_t launches_per_round = 4096;

inline uint32_t cell_of(uint32_t stamp, CellKind kind, uint32_t block) { return stamp << 20 | uint32_t(kind) << 18 | block; }
inline uint32_t block_id(const Block& b) { return uint32_t(b.linear) & 0x3ffff; }

// n cells; true = perhaps a hazard, then that cell is left as it was.
template <bool write>
inline __attribute__((always_inline)) bool scan_global(uint32_t* __restrict cells, int n, uint32_t stamp, uint32_t block) {
  const uint32_t read_mine = cell_of(stamp, read_by_one, block), several = cell_of(stamp, read_by_several, 0);
  const uint32_t written_mine = cell_of(stamp, written_by_one, block);
  uint32_t hazards = 0;
#pragma GCC ivdep
  for (int i = 0; i < n; i++) {
    const uint32_t x = cells[i], kind = x >> 18 & 3;
    const bool stale = x >> 20 != stamp;
    if constexpr (write) {
      const bool hazard = (!stale) & (x != read_mine) & (x != written_mine);
      cells[i] = hazard ? x : written_mine;
      hazards |= hazard;
    } else {
      const bool hazard = (x == 0) | ((!stale) & (((kind == written_by_one) & (x != written_mine)) | (kind == shared_by_several)));
      const uint32_t next = stale ? read_mine : (kind == read_by_one) & (x != read_mine) ? several : x;
      cells[i] = hazard ? x : next;
      hazards |= hazard;
    }
  }
  return hazards != 0;
}

void check_global_precisely(Warp& w, uint64_t address, uint32_t bytes, int lane, Access access);

template <Access access> inline void check_global(Warp& w, uint64_t address, uint32_t bytes, int lane) {
  Block& b = *w.block;
  if (is_strong(access) || (bytes == 1 && writes(access))) return check_global_precisely(w, address, bytes, lane, access);
  uint32_t* cells = b.memory->shadow(address);
  bool hazard;
  switch (bytes) {
    case 1:
    case 2: hazard = scan_global<access == Access::write>(cells, 1, b.launch_stamp, block_id(b)); break;
    case 4: hazard = scan_global<access == Access::write>(cells, 2, b.launch_stamp, block_id(b)); break;
    case 16: hazard = scan_global<access == Access::write>(cells, 8, b.launch_stamp, block_id(b)); break;
    default: hazard = scan_global<access == Access::write>(cells, int(bytes / 2), b.launch_stamp, block_id(b));
  }
  if (hazard) [[unlikely]]
    check_global_precisely(w, address, bytes, lane, access);
}

// What a block has done before its fence becomes visible to those that meet it at this address.
void meet_at(Warp& w, uint64_t address, bool releases);

}  // namespace ptxemu
