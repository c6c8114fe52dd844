// Where an access goes wrong, in words; and the search for the allocation of a global address (instructions/memory.h).
#include <cstdio>

#include "memory.h"

namespace ptxemu {

void fail_misaligned(Warp& w, const char* space, uint64_t address, uint32_t bytes, int lane) {
  char text[120];
  std::snprintf(text, sizeof text, "%s address 0x%llx for an access of %u bytes", space, static_cast<unsigned long long>(address), bytes);
  fail(w, ErrorKind::misaligned, text, lane);
}

void fail_shared(Warp& w, uint64_t offset, uint32_t bytes, int lane) {
  fail(w, ErrorKind::out_of_bounds,
       std::to_string(bytes) + " bytes at shared memory offset " + std::to_string(int64_t(offset)) + ", the block has " +
           std::to_string(w.block->shared.size()),
       lane);
}

void fail_global(Warp& w, uint64_t address, uint32_t bytes, int lane) {
  const Memory& memory = *w.block->memory;
  const Memory::Range* range = memory.find(address);
  std::string where;
  if (range) {
    where = "offset " + std::to_string(address - range->address) + " of an allocation of " + std::to_string(range->bytes) + " bytes";
  } else {
    where = "an address in no allocation";
    for (auto& r : memory.allocations()) {
      if (address >= r.address + r.bytes && address < r.address + r.bytes + 4096)
        where = std::to_string(address - r.address - r.bytes) + " bytes behind the end of an allocation of " + std::to_string(r.bytes) +
                " bytes";
      if (address < r.address && address + 4096 > r.address)
        where = std::to_string(r.address - address) + " bytes before an allocation of " + std::to_string(r.bytes) + " bytes";
    }
    if (memory.find_host(address)) where = "host memory that is not mapped";
    if (address < 4096) where = "a null pointer + " + std::to_string(address);
  }
  fail(w, ErrorKind::out_of_bounds, std::to_string(bytes) + " bytes at " + where, lane);
}

std::byte* find_global(Warp& w, uint64_t address, uint32_t bytes, int lane, bool& device, int lanes) {
  Block& b = *w.block;
  const uint32_t each = bytes / uint32_t(lanes);
  if (const Memory::Range* range = b.memory->find(address)) {
    const uint64_t inside = address - range->address, good = (range->bytes - inside) / each;  // lanes that stay inside
    if (good < uint64_t(lanes)) fail_global(w, address + good * each, each, lane + int(good));
    b.range_hint[w.current - b.program->code.data()] = *range;
    return b.memory->backing(address);
  }
  bool mapped = false;
  const Memory::Range* host = b.memory->find_host(address, &mapped);
  if (!host || !mapped || bytes > host->bytes - (address - host->address)) fail_global(w, address, each, lane);
  device = false;
  return reinterpret_cast<std::byte*>(address);
}

}  // namespace ptxemu
