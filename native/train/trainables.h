// What attached adapters train: their parameters, flat buffers with a value for each element of each, and the results of steps.
#pragma once
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../graph/backend.h"

namespace lorafuse {

// A trainable tensor of the graph.
struct Parameter {
  std::string network, name;
  Shape shape;
  uint8_t group = 0;
};

class Trainables {
 public:
  static constexpr int64_t kMostBatch = 1024;
  static constexpr int64_t kResults = 1 + kMostBatch;  // an update's norm, and the losses that may wait

  Trainables() = default;
  // All buffers are zero. The parameters are sorted by group. Without an optimizer only the weights have a buffer. Throws OUT_OF_MEMORY.
  Trainables(Backend& backend, const std::vector<Parameter>& parameters, std::optional<Optimizer> optimizer);

  // weights, gradients, then the optimizer's.
  const std::vector<BufferSpec>& buffers() const { return buffers_; }
  // Throw ARGUMENT_INVALID for a name that no buffer has, and for another count of elements.
  void read(Backend& backend, const std::string& buffer, std::span<float> to) const;
  std::vector<float> read(Backend& backend, const std::string& buffer) const;
  void write(Backend& backend, const std::string& buffer, std::span<const float> data);
  void clear(Backend& backend, const std::string& buffer);  // to zeros
  // Where a parameter or its gradient lies.
  Tensor bind(const Value& value) const;

  const std::optional<Optimizer>& optimizer() const { return optimizer_; }
  const Trained& trained() const { return trained_; }
  // An update's norm, then losses that were not collected yet.
  float* results() const { return results_.f32(); }

 private:
  size_t index(const std::string& buffer) const;
  void* memory(const std::string& buffer, size_t elements) const;

  std::map<std::pair<std::string, std::string>, int64_t> offsets_;  // of a parameter in each flat buffer, in elements
  std::optional<Optimizer> optimizer_;
  std::vector<BufferSpec> buffers_;
  std::vector<Memory> memory_;  // of each buffer
  Trained trained_;             // the same
  Memory results_;
};

}  // namespace lorafuse
