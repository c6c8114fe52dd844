#include "inputs.h"

#include <set>

namespace lorafuse {

Shapes input_shapes(const Inputs& inputs) {
  Shapes shapes;
  for (const auto& [name, tensor] : inputs) shapes[name] = tensor.shape;
  return shapes;
}

void check_names(const Graph& graph, const Shapes& shapes, const std::string& later) {
  std::set<std::string> known;
  for (const Value& v : graph.values) {
    if (v.storage != Storage::input || v.name == later) continue;
    known.insert(v.name);
    CHECK(shapes.contains(v.name), "ARGUMENT_INVALID", "Expected an input ", v.name, " ", v.shape, " but received none");
  }
  for (const auto& [name, shape] : shapes)
    CHECK(known.contains(name), "ARGUMENT_INVALID", "Expected no input ", name, " but received one ", shape);
}

void check_data(const Graph& graph, const Inputs& inputs) {
  for (const Value& v : graph.values) {
    const auto given = v.storage == Storage::input ? inputs.find(v.name) : inputs.end();
    if (given == inputs.end()) continue;
    const bool ids = v.dtype == DType::i32;
    CHECK((given->second.dtype() == DType::i32) == ids, "ARGUMENT_INVALID", "Expected ", ids ? "integers" : "floats", " for the input ",
          v.name, " but received others");
  }
  const auto check_range = [&](ValueId indices, int64_t end, const char* what) {
    const std::string& name = graph.values[indices].name;
    for (int32_t i : std::get<std::vector<int32_t>>(inputs.at(name).data))
      CHECK(i >= 0 && i < end, "ARGUMENT_INVALID", "Expected ", what, " from 0 to ", end - 1, " for the input ", name, " but received ", i);
  };
  for (const Node& node : graph.nodes) {
    if (std::holds_alternative<Embedding>(node.op)) check_range(node.inputs[0], graph.shape(node.inputs[1])[0], "token ids");
    if (std::holds_alternative<Gather>(node.op)) check_range(node.inputs[1], graph.shape(node.inputs[0]).rows(), "rows");
  }
}

}  // namespace lorafuse
