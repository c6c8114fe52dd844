// Memory on the GPU and pinned memory of the host.
#include <cstdlib>
#include <cstring>

#include "runtime/runtime.h"

using namespace ptxemu;

namespace {

// Every allocation that may fail on request passes here.
void count_allocation(Runtime& r, size_t bytes) {
  if (r.due(&Settings::fail_allocation))
    throw Failure(cudaErrorMemoryAllocation, std::to_string(bytes) + " bytes: this allocation was asked to fail (PTXEMU_FAIL_ALLOCATION)");
}

void allocate_pinned(Runtime& r, void** address, size_t bytes, bool mapped) {
  require(address, cudaErrorInvalidValue, "no place for the address");
  r.graphs.refuse_unsafe();
  *address = nullptr;
  if (bytes == 0) return;
  count_allocation(r, bytes);
  void* memory = nullptr;
  if (posix_memalign(&memory, 4096, bytes) != 0)
    throw Failure(cudaErrorMemoryAllocation, "the host has no " + std::to_string(bytes) + " bytes of memory");
  std::memset(memory, 0xFF, bytes);  // undefined contents
  r.memory->register_host(memory, bytes, mapped);
  r.pinned_allocations[memory] = {bytes, ++r.allocation_numbers, true};
  *address = memory;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** address, size_t bytes) {
  return call([&](Runtime& r) {
    require(address, cudaErrorInvalidValue, "no place for the address");
    r.graphs.refuse_unsafe();
    *address = nullptr;
    if (bytes == 0) return;
    count_allocation(r, bytes);
    const uint64_t fresh = r.memory->allocate(bytes);
    if (fresh == 0)
      throw Failure(cudaErrorMemoryAllocation, std::to_string(bytes) + " bytes do not fit: " + std::to_string(r.memory->used_bytes()) +
                                                   " of " + std::to_string(r.memory->capacity_bytes()) + " bytes are in use");
    r.device_allocations[fresh] = {bytes, ++r.allocation_numbers, true};
    *address = reinterpret_cast<void*>(fresh);
  });
}

// Waits for the work of the whole GPU, as the driver does.
cudaError_t cudaFree(void* address) {
  return call([&](Runtime& r) {
    r.graphs.refuse_unsafe();
    if (!address) return;
    require(r.device_allocations.count(reinterpret_cast<uint64_t>(address)), cudaErrorInvalidValue,
            "cudaFree: no allocation begins at this address (freed twice?)");
    r.scheduler.finish_all();
    r.memory->release(reinterpret_cast<uint64_t>(address));
    r.device_allocations.erase(reinterpret_cast<uint64_t>(address));
  });
}

cudaError_t cudaMallocHost(void** address, size_t bytes) {
  return call([&](Runtime& r) { allocate_pinned(r, address, bytes, false); });
}

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned flags) {
  return call([&](Runtime& r) {
    require(!(flags & ~unsigned(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined)), cudaErrorInvalidValue,
            "unknown flags of cudaHostAlloc");
    allocate_pinned(r, address, bytes, flags & cudaHostAllocMapped);
  });
}

cudaError_t cudaFreeHost(void* address) {
  return call([&](Runtime& r) {
    r.graphs.refuse_unsafe();
    if (!address) return;
    const auto found = r.pinned_allocations.find(address);
    require(found != r.pinned_allocations.end() && found->second.owned, cudaErrorInvalidValue,
            "cudaFreeHost: no pinned allocation begins at this address (freed twice?)");
    r.scheduler.finish_all();
    r.memory->unregister_host(address);
    r.pinned_allocations.erase(found);
    std::free(address);
  });
}

cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned flags) {
  return call([&](Runtime& r) {
    require(address && bytes > 0, cudaErrorInvalidValue, "cudaHostRegister: no memory");
    require(!(flags & ~unsigned(cudaHostRegisterPortable | cudaHostRegisterMapped | cudaHostRegisterReadOnly)), cudaErrorInvalidValue,
            "unknown flags of cudaHostRegister");
    r.graphs.refuse_unsafe();
    const auto begin = static_cast<char*>(address);
    for (const auto& [other, a] : r.pinned_allocations) {
      const auto from = static_cast<char*>(other);
      require(begin + bytes <= from || from + a.bytes <= begin, cudaErrorHostMemoryAlreadyRegistered, "the memory is pinned already");
    }
    count_allocation(r, bytes);
    r.memory->register_host(address, bytes, flags & cudaHostRegisterMapped);
    r.pinned_allocations[address] = {bytes, ++r.allocation_numbers, false};
  });
}

cudaError_t cudaHostUnregister(void* address) {
  return call([&](Runtime& r) {
    r.graphs.refuse_unsafe();
    const auto found = r.pinned_allocations.find(address);
    require(found != r.pinned_allocations.end() && !found->second.owned, cudaErrorHostMemoryNotRegistered,
            "cudaHostUnregister: nothing was registered at this address");
    r.scheduler.finish_all();
    r.memory->unregister_host(address);
    r.pinned_allocations.erase(found);
  });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return call([&](Runtime& r) {
    bool mapped = false;
    require(flags == 0 && r.memory->find_host(reinterpret_cast<uint64_t>(host), &mapped) && mapped, cudaErrorInvalidValue,
            "the memory was not pinned with cudaHostAllocMapped or cudaHostRegisterMapped");
    *device = host;  // unified addresses
  });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  return call([&](Runtime& r) {
    *total = r.memory->capacity_bytes();
    *free = *total - r.memory->used_bytes();
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return call([&](Runtime& r) {
    const auto address = reinterpret_cast<uint64_t>(pointer);
    *attributes = {};
    bool mapped = false;
    if (r.memory->find(address)) {
      attributes->type = cudaMemoryTypeDevice;
      attributes->devicePointer = const_cast<void*>(pointer);
    } else if (r.memory->find_host(address, &mapped)) {
      attributes->type = cudaMemoryTypeHost;
      attributes->hostPointer = const_cast<void*>(pointer);
      attributes->devicePointer = mapped ? const_cast<void*>(pointer) : nullptr;
    } else {
      attributes->type = cudaMemoryTypeUnregistered;
      attributes->hostPointer = const_cast<void*>(pointer);
    }
  });
}
}
