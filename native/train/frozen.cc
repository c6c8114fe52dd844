#include "frozen.h"

namespace lorafuse {
namespace {

constexpr size_t kAlignment = 256;  // as cudaMalloc's
size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void Frozen::place(const Graph& graph) {
  if (backend_.reads_host_memory()) return;
  std::map<std::string, size_t> offsets;
  size_t bytes = 0;
  for (const Value& v : graph.values)
    if (v.storage == Storage::weight && !placed_.contains(v.name) && offsets.emplace(v.name, bytes).second) bytes += aligned(weights.bytes(v.name));
  if (bytes == 0) return;
  blocks_.push_back(nullptr);
  blocks_.back() = backend_.allocate(bytes);
  for (const auto& [name, offset] : offsets) {
    Tensor t = weights.get(name);
    void* to = static_cast<unsigned char*>(blocks_.back()) + offset;
    backend_.upload(to, t.data, t.bytes());
    weights.release(name);
    placed_[name] = {to, t.dtype, t.shape};
  }
}

Tensor Frozen::get(const std::string& name) { return backend_.reads_host_memory() ? weights.get(name) : placed_.at(name); }

void Frozen::free_blocks() {
  for (void* block : blocks_)
    if (block) backend_.release(block);
  blocks_.clear();
}

void Frozen::release() {
  free_blocks();
  placed_.clear();
  weights.release();
}

}  // namespace lorafuse
