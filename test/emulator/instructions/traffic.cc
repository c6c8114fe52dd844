// Coalescing and bank conflicts, as a profiler counts them: global memory in sectors of 32 bytes, shared memory in 32 banks of 4 bytes; a
// request of 8 or 16 bytes per lane is served in half or quarter warps (CUDA Best Practices Guide, "Coalesced Access", "Shared Memory
// Banks").
#include <algorithm>

#include "memory.h"

namespace ptxemu {

void count_global(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes, bool store) {
  KernelCounters& c = *b.counters;
  uint64_t firsts[32], lasts[32], total = 0;  // of each run
  int runs = 0;
  bool ascending = true;
  each_run(a, mask, bytes, [&](int lane, int n) {
    uint64_t first = a.of[lane] >> 5;
    const uint64_t last = (a.of[lane] + bytes * uint32_t(n) - 1) >> 5;
    firsts[runs] = first, lasts[runs] = last;
    if (runs && first == lasts[runs - 1]) first++;
    else if (runs && first < lasts[runs - 1]) ascending = false;
    total += last + 1 - first;
    runs++;
  });
  if (!ascending) {
    uint64_t sectors[160];
    int n = 0;
    for (int r = 0; r < runs; r++)
      for (uint64_t s = firsts[r]; s <= lasts[r]; s++) sectors[n++] = s;
    std::sort(sectors, sectors + n);
    total = uint64_t(std::unique(sectors, sectors + n) - sectors);
  }
  c.global_requests++;
  (store ? c.global_store_sectors : c.global_load_sectors) += total;
  (store ? c.global_store_bytes : c.global_load_bytes) += uint64_t(std::popcount(mask)) * bytes;
}

// An access of 4, 8 or 16 bytes takes one, two or four neighbouring banks: the columns of a table as wide as a pass has lanes.
void count_shared(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes, bool one_run) {
  KernelCounters& c = *b.counters;
  c.shared_requests++;
  const int shift = bytes <= 4 ? 2 : bytes == 8 ? 3 : 4, columns = 128 >> shift;
  for (int first = 0; first < 32; first += columns) {
    const uint32_t part = mask & (columns == 32 ? all_lanes : ((1u << columns) - 1) << first);
    if (!part) continue;
    c.shared_passes++;
    if (one_run && bytes >= 4) continue;
    uint64_t equal = 0, next = 0;
    for (int i = 0; i < columns; i++) equal |= a.of[first + i] ^ a.of[first], next |= a.of[first + i] ^ (a.of[first] + uint64_t(i) * bytes);
    if (mask == all_lanes && bytes >= 4 && (!equal || !next)) continue;
    uint32_t row[32][32];  // [column] different places that were asked for
    uint8_t different[32] = {};
    int most = 1;
    each_active(part, [&](int lane) {
      const uint32_t place = uint32_t(a.of[lane] >> shift), column = place & uint32_t(columns - 1);
      const int n = different[column];
      for (int i = 0; i < n; i++)
        if (row[column][i] == place) return;
      row[column][n] = place;
      different[column] = uint8_t(n + 1);
      most = std::max(most, n + 1);
    });
    c.shared_conflicts += uint64_t(most - 1);
  }
}

}  // namespace ptxemu
