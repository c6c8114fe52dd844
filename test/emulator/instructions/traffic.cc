// Coalescing and bank conflicts, as a profiler counts them: global memory in sectors of 32 bytes, shared memory in 32 banks of 4 bytes; a
// request of 8 or 16 bytes per lane is served in half or quarter warps (CUDA Best Practices Guide, "Coalesced Access", "Shared Memory Banks").
#include <algorithm>

#include "memory.h"

namespace ptxemu {

void count_global(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes, bool store) {
  KernelCounters& c = *b.counters;
  uint64_t sectors[128], last = ~uint64_t(0);
  int n = 0, count = 0;
  bool ascending = true;
  each_active(mask, [&](int lane) {
    const uint64_t first = a.of[lane] >> 5;
    for (uint64_t s = first; s <= (a.of[lane] + bytes - 1) >> 5; s++) {
      if (s == last) continue;
      ascending &= last == ~uint64_t(0) || s > last;
      last = s;
      if (n < 128) sectors[n++] = s;
    }
  });
  count = n;
  if (!ascending) {
    std::sort(sectors, sectors + n);
    count = int(std::unique(sectors, sectors + n) - sectors);
  }
  c.global_requests++;
  (store ? c.global_store_sectors : c.global_load_sectors) += uint64_t(count);
  (store ? c.global_store_bytes : c.global_load_bytes) += uint64_t(std::popcount(mask)) * bytes;
}

void count_shared(Block& b, const Addresses& a, uint32_t mask, uint32_t bytes) {
  KernelCounters& c = *b.counters;
  c.shared_requests++;
  const int lanes_per_pass = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  if (mask == all_lanes && bytes >= 4 && contiguous(a, bytes)) {
    c.shared_passes += uint64_t(32 / lanes_per_pass);
    return;
  }
  for (int first = 0; first < 32; first += lanes_per_pass) {
    const uint32_t part = mask & (lanes_per_pass == 32 ? all_lanes : ((1u << lanes_per_pass) - 1) << first);
    if (!part) continue;
    uint32_t words[32][8];  // [bank] different words that were asked for
    uint8_t different[32] = {};
    int most = 1;
    each_active(part, [&](int lane) {
      for (uint32_t k = 0; k < std::max(1u, bytes / 4); k++) {
        const uint32_t word = uint32_t(a.of[lane] >> 2) + k, bank = word & 31;
        uint8_t& n = different[bank];
        bool known = false;
        for (int i = 0; i < std::min<int>(n, 8); i++) known |= words[bank][i] == word;
        if (known) continue;
        if (n < 8) words[bank][n] = word;
        most = std::max<int>(most, ++n);
      }
    });
    c.shared_passes++;
    c.shared_conflicts += uint64_t(most - 1);
  }
}

}  // namespace ptxemu
