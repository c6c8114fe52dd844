// The inputs of a graph as a caller gives them, by name.
#pragma once
#include <variant>

#include "../model/builder.h"

namespace lorafuse {

// A tensor of the caller's.
struct HostTensor {
  Shape shape;
  std::variant<std::vector<float>, std::vector<int32_t>> data;

  DType dtype() const { return data.index() == 0 ? DType::f32 : DType::i32; }
  const void* bytes() const {
    return std::visit([](const auto& d) { return static_cast<const void*>(d.data()); }, data);
  }
};
using Inputs = std::map<std::string, HostTensor>;
Shapes input_shapes(const Inputs& inputs);

// Every input of the graph is given, and nothing else; the graph has checked their shapes. `later`: one that comes with a step.
// Throws ARGUMENT_INVALID naming the input.
void check_names(const Graph& graph, const Shapes& shapes, const std::string& later);
// Floats where the graph takes floats, integers where it takes token ids or rows, none beyond the vocabulary or the tensor. Throws
// ARGUMENT_INVALID.
void check_data(const Graph& graph, const Inputs& inputs);

}  // namespace lorafuse
