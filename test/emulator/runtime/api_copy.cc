// Copies and fills (CUDA Runtime API, "API synchronization behavior"):
//   pageable host → GPU: staged at once, copied later; GPU → pageable host, host → host: done when the call returns;
//   pinned host ↔ GPU: the host's bytes are read and written when the copy runs; GPU → GPU and fills: later, without Async too.
#include <cstring>
#include <vector>

#include "runtime/queue.h"

using namespace ptxemu;

namespace {

enum class Place { device, pinned, pageable };

Place place(const Runtime& r, const void* pointer) {
  const auto address = reinterpret_cast<uint64_t>(pointer);
  if (r.memory->find(address)) return Place::device;
  return r.memory->find_host(address) ? Place::pinned : Place::pageable;
}

// One end of a copy, checked when the call is made.
Place end(const Runtime& r, const void* pointer, size_t bytes, bool may_be_device, bool may_be_host, const char* name) {
  const Place at = place(r, pointer);
  const auto address = reinterpret_cast<uint64_t>(pointer);
  const auto refuse = [&](const char* what) { throw Failure(cudaErrorInvalidValue, std::string("copy: the ") + name + " " + what); };
  if (!pointer) refuse("is a null pointer");
  if (at != Place::device && r.memory->reserved(address)) refuse("is an address of the gpu outside every allocation (freed?)");
  if (at == Place::device && !may_be_device) refuse("is device memory, the kind of copy says host");
  if (at == Place::pageable && !may_be_host) refuse("is no device memory, the kind of copy says device");
  if (at == Place::device && !r.memory->contains(address, bytes)) refuse("leaves its allocation");
  if (at == Place::pinned) {
    const Memory::Range* range = r.memory->find_host(address);
    if (bytes > range->address + range->bytes - address) refuse("leaves its pinned allocation");
  }
  return at;
}

// The pinned memory of a copy that runs now (a graph may have outlived it).
void still_pinned(const Runtime& r, const void* pointer) {
  if (!r.memory->find_host(reinterpret_cast<uint64_t>(pointer)))
    throw Error(ErrorKind::out_of_bounds, "a copy runs after its pinned host memory was freed");
}

std::function<void()> work_of(Runtime& r, void* to, Place to_place, const void* from, Place from_place, size_t bytes) {
  const auto to_address = reinterpret_cast<uint64_t>(to), from_address = reinterpret_cast<uint64_t>(from);
  Memory* memory = r.memory.get();
  if (to_place == Place::device && from_place == Place::device) return [=] { memory->copy(to_address, from_address, bytes); };
  if (to_place == Place::device && from_place == Place::pageable) {
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return [=] { memory->write(to_address, staged->data(), bytes); };
  }
  return [=, &r] {
    if (to_place == Place::pinned) still_pinned(r, to);
    if (from_place == Place::pinned) still_pinned(r, from);
    if (to_place == Place::device) memory->write(to_address, from, bytes);
    else if (from_place == Place::device) memory->read(to, from_address, bytes);
    else std::memmove(to, from, bytes);
    if (from_place == Place::device) r.trace("{\"copied_to_host\": " + std::to_string(bytes) + "}");
  };
}

void copy(Runtime& r, void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream& stream, bool blocking) {
  require(kind >= cudaMemcpyHostToHost && kind <= cudaMemcpyDefault, cudaErrorInvalidMemcpyDirection, "copy: no such kind");
  if (bytes == 0) return;
  const bool any = kind == cudaMemcpyDefault;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const Place to_place = end(r, to, bytes, any || to_device, any || !to_device, "destination");
  const Place from_place = end(r, from, bytes, any || from_device, any || !from_device, "source");
  const bool pageable = to_place == Place::pageable || from_place == Place::pageable;
  if (stream.capture && pageable) r.graphs.refuse(stream);  // the copy would have to wait for the stream
  const bool on_device = to_place == Place::device && from_place == Place::device;
  if (blocking) r.graphs.refuse_unsafe();
  enqueue(r, stream, cudaGraphNodeTypeMemcpy, work_of(r, to, to_place, from, from_place, bytes));
  const bool on_host = to_place != Place::device && from_place != Place::device;
  const bool waits = on_host || to_place == Place::pageable || (blocking && !on_device);
  if (waits && !stream.capture) r.streams.synchronize(stream);
}

void fill(Runtime& r, void* to, int value, size_t bytes, Stream& stream) {
  if (bytes == 0) return;
  const auto address = reinterpret_cast<uint64_t>(to);
  require(r.memory->find(address), cudaErrorInvalidValue, "fill: no device memory at this address");
  require(r.memory->contains(address, bytes), cudaErrorInvalidValue, "fill: the range leaves its allocation");
  Memory* memory = r.memory.get();
  enqueue(r, stream, cudaGraphNodeTypeMemset, [=] { memory->fill(address, static_cast<unsigned char>(value), bytes); });
}

}  // namespace

extern "C" {

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call([&](Runtime& r) { copy(r, to, from, bytes, kind, r.streams.legacy(), true); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call([&](Runtime& r) { copy(r, to, from, bytes, kind, r.streams.stream(stream), false); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return call([&](Runtime& r) { fill(r, to, value, bytes, r.streams.legacy()); });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return call([&](Runtime& r) { fill(r, to, value, bytes, r.streams.stream(stream)); });
}

// Device variables: the copy is an ordinary one to or from their memory.
cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  return call([&](Runtime& r) { *address = reinterpret_cast<void*>(r.modules.variable(symbol, *r.memory, r.gpu).address); });
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  return call([&](Runtime& r) {
    const Variable& variable = r.modules.variable(symbol, *r.memory, r.gpu);
    copy(r, reinterpret_cast<void*>(variable.address + offset), from, bytes, kind, r.streams.legacy(), true);
  });
}

cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset, cudaMemcpyKind kind) {
  return call([&](Runtime& r) {
    const Variable& variable = r.modules.variable(symbol, *r.memory, r.gpu);
    copy(r, to, reinterpret_cast<const void*>(variable.address + offset), bytes, kind, r.streams.legacy(), true);
  });
}
}
