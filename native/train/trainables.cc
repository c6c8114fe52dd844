#include "trainables.h"

#include <algorithm>

namespace lorafuse {

Trainables::Trainables(Backend& backend, const std::vector<Parameter>& parameters, std::optional<Optimizer> optimizer)
    : optimizer_(std::move(optimizer)) {
  int64_t count = 0;
  for (const Parameter& p : parameters) {
    while (trained_.group_ends.size() <= p.group) trained_.group_ends.push_back(count);
    offsets_[{p.network, p.name}] = count;
    trained_.group_ends.back() = count += p.shape.elements();
  }
  buffers_ = {{"weights", DType::f32, count}};
  if (optimizer_) {
    buffers_.push_back({"gradients", DType::f32, count});
    for (const BufferSpec& spec : lorafuse::buffers(*optimizer_, count)) buffers_.push_back(spec);
    results_ = Memory(backend, kResults * sizeof(float));
  }
  for (const BufferSpec& spec : buffers_) {
    CHECK(spec.dtype == DType::f32, "INTERNAL", "Expected buffers in f32, as read() and write() move them, but ", spec.name, " is not");
    memory_.emplace_back(backend, spec.count * sizeof(float));
  }
  trained_.weights = memory_[0].f32();
  if (optimizer_) trained_.gradients = memory_[1].f32();
  for (size_t i = 2; i < memory_.size(); i++) trained_.state.push_back(memory_[i].data());
}

size_t Trainables::index(const std::string& buffer) const {
  const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const BufferSpec& spec) { return spec.name == buffer; });
  CHECK(found != buffers_.end(), "ARGUMENT_INVALID", "Expected the name of a buffer but received ", buffer);
  return found - buffers_.begin();
}

// Of a buffer that has `elements`.
void* Trainables::memory(const std::string& buffer, size_t elements) const {
  const size_t i = index(buffer);
  CHECK(static_cast<int64_t>(elements) == buffers_[i].count, "ARGUMENT_INVALID", "Expected ", buffers_[i].count,
        " elements for the buffer ", buffer, " but received ", elements);
  return memory_[i].data();
}

void Trainables::read(Backend& backend, const std::string& buffer, std::span<float> to) const {
  backend.download(to.data(), memory(buffer, to.size()), to.size_bytes());
}

std::vector<float> Trainables::read(Backend& backend, const std::string& buffer) const {
  std::vector<float> data(buffers_[index(buffer)].count);
  read(backend, buffer, data);
  return data;
}

void Trainables::write(Backend& backend, const std::string& buffer, std::span<const float> data) {
  backend.upload(memory(buffer, data.size()), data.data(), data.size_bytes());
}

void Trainables::clear(Backend& backend, const std::string& buffer) {
  const BufferSpec& spec = buffers_[index(buffer)];
  backend.fill(memory(buffer, spec.count), 0, spec.count * size_of(spec.dtype));
}

Tensor Trainables::bind(const Value& value) const {
  float* buffer = value.storage == Storage::parameter ? trained_.weights : trained_.gradients;
  return {buffer + offsets_.at({value.network, value.name}), DType::f32, value.shape};
}

}  // namespace lorafuse
