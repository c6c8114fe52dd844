#include "frozen.h"

namespace lorafuse {

void Frozen::place(const Graph& graph) {
  if (backend_.reads_host_memory()) return;
  std::vector<std::pair<const Value*, size_t>> offsets;
  size_t bytes = 0;
  for (const Value& v : graph.values) {
    if (v.storage != Storage::weight || placed_.contains(v.name)) continue;
    offsets.push_back({&v, bytes});
    bytes += aligned(v.bytes());
  }
  if (bytes == 0) return;
  blocks_.push_back(nullptr);
  blocks_.back() = backend_.allocate(bytes);
  for (const auto& [value, offset] : offsets) {
    Tensor t = weights.get(value->name, value->dtype, value->shape);
    void* to = static_cast<unsigned char*>(blocks_.back()) + offset;
    backend_.upload(to, t.data, t.bytes());
    weights.release(value->name);
    placed_[value->name] = {to, t.dtype, t.shape};
  }
}

Tensor Frozen::get(const Value& weight) {
  return backend_.reads_host_memory() ? weights.get(weight.name, weight.dtype, weight.shape) : placed_.at(weight.name);
}

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
