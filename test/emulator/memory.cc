// Device memory: one reserved range of addresses, its bytes at a fixed distance, its shadow cells at another (CUDA Runtime API, memory).
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "checks/global.h"
#include "machine.h"

namespace ptxemu {
namespace {

constexpr size_t alignment = 256, gap = 4096, page = 4096;  // a gap between any two allocations, so that overruns meet nothing
size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

char* reserve(size_t bytes, int protection) {
  void* p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error(ErrorKind::limit, "cannot reserve " + std::to_string(bytes) + " bytes of addresses for device memory");
  return static_cast<char*>(p);
}

}  // namespace

Memory::Memory(size_t capacity_bytes, bool tracked) : capacity_(capacity_bytes), tracked_(tracked) {
  reserved_ = round_up(capacity_bytes, page) * 4 + (1 << 20);  // room to hand out fresh addresses for long
  base_ = reinterpret_cast<uint64_t>(reserve(reserved_, PROT_NONE));
  next_ = base_ + gap;
  backing_offset_ = reinterpret_cast<int64_t>(reserve(reserved_, PROT_READ | PROT_WRITE)) - int64_t(base_);
  shadow_ = reinterpret_cast<uint32_t*>(reserve(reserved_ * 2, PROT_READ | PROT_WRITE));
}

Memory::~Memory() {
  munmap(reinterpret_cast<void*>(base_), reserved_);
  munmap(reinterpret_cast<void*>(base_ + backing_offset_), reserved_);
  munmap(shadow_, reserved_ * 2);
}

uint64_t Memory::allocate(size_t bytes) {
  if (!bytes || bytes > capacity_ || used_ + bytes > capacity_) return 0;
  size_t span = round_up(bytes, page) + gap;  // whole pages: released ones go back to the host
  uint64_t address = next_;
  if (address + span > base_ + reserved_) {  // round again: the first hole that is wide enough
    address = base_ + gap;
    for (auto& [at, range] : allocations_) {
      if (address + span <= at) break;
      address = round_up(at + range.bytes, page) + gap;
    }
    if (address + span > base_ + reserved_) return 0;
  }
  next_ = address + span;
  allocations_[address] = {address, bytes};
  used_ += bytes;
  std::memset(backing(address), 0xff, bytes);
  return address;
}

bool Memory::release(uint64_t address) {
  auto it = allocations_.find(address);
  if (it == allocations_.end()) return false;
  size_t span = round_up(it->second.bytes, page);
  used_ -= it->second.bytes;
  allocations_.erase(it);
  madvise(backing(address), span, MADV_DONTNEED);
  madvise(shadow(address), span * 2, MADV_DONTNEED);
  return true;
}

const Memory::Range* Memory::find(uint64_t address) const {
  auto it = allocations_.upper_bound(address);
  if (it == allocations_.begin()) return nullptr;
  --it;
  return address - it->first < it->second.bytes ? &it->second : nullptr;
}

bool Memory::contains(uint64_t address, size_t bytes) const {
  const Range* range = find(address);
  return range && bytes <= range->address + range->bytes - address;
}

std::vector<Memory::Range> Memory::allocations() const {
  std::vector<Range> all;
  for (auto& [address, range] : allocations_) all.push_back(range);
  return all;
}

void Memory::check(uint64_t address, size_t bytes, const char* what) const {
  if (contains(address, bytes) || !bytes) return;
  const Range* range = find(address);
  std::string where =
      range ? "offset " + std::to_string(address - range->address) + " of an allocation of " + std::to_string(range->bytes) + " bytes"
            : "an address outside every allocation";
  throw Error(ErrorKind::out_of_bounds, std::string(what) + " of " + std::to_string(bytes) + " bytes at " + where);
}

void Memory::write(uint64_t to, const void* from, size_t bytes) {
  check(to, bytes, "write by the host");
  std::memcpy(backing(to), from, bytes);
  mark_initialised(to, bytes);
}

void Memory::read(void* to, uint64_t from, size_t bytes) const {
  check(from, bytes, "read by the host");
  std::memcpy(to, backing(from), bytes);
}

void Memory::copy(uint64_t to, uint64_t from, size_t bytes) {
  check(to, bytes, "copy to");
  check(from, bytes, "copy from");
  if (!bytes) return;
  std::memmove(backing(to), backing(from), bytes);
  if (!tracked_) return;
  size_t written = first_uninitialised(from, bytes);
  if (written == bytes) return mark_initialised(to, bytes);
  for (size_t i = 0; i < bytes; i += 2) *shadow(to + i) = *shadow(from + i) ? cell_written_by_host : 0;
}

void Memory::fill(uint64_t to, unsigned char value, size_t bytes) {
  check(to, bytes, "fill");
  std::memset(backing(to), value, bytes);
  mark_initialised(to, bytes);
}

void Memory::mark_initialised(uint64_t address, size_t bytes) {
  if (bytes && tracked_) std::fill(shadow(address), shadow(address + bytes - 1) + 1, cell_written_by_host);
}

size_t Memory::first_uninitialised(uint64_t address, size_t bytes) const {
  if (!bytes) return 0;
  const uint32_t *from = shadow(address), *to = shadow(address + bytes - 1) + 1;
  size_t at = size_t(std::find(from, to, 0u) - from);
  return at == size_t(to - from) ? bytes : at ? at * 2 - (address & 1) : 0;
}

void Memory::register_host(void* address, size_t bytes, bool mapped) {
  uint64_t a = reinterpret_cast<uint64_t>(address);
  host_[a] = {{a, bytes}, mapped};
}

bool Memory::unregister_host(void* address) { return host_.erase(reinterpret_cast<uint64_t>(address)) > 0; }

const Memory::Range* Memory::find_host(uint64_t address, bool* mapped) const {
  auto it = host_.upper_bound(address);
  if (it == host_.begin()) return nullptr;
  --it;
  if (address - it->first >= it->second.range.bytes) return nullptr;
  if (mapped) *mapped = it->second.mapped;
  return &it->second.range;
}

uint32_t Memory::next_launch() {
  if (++launch_ < launches_per_round) return launch_;
  for (auto& [address, range] : allocations_)  // the stamps start again: forget who wrote, keep that it was written
    for (uint32_t* cell = shadow(address); cell <= shadow(address + range.bytes - 1); cell++)
      if (*cell) *cell = cell_written_by_host;
  return launch_ = 1;
}

}  // namespace ptxemu
