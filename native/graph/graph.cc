#include "graph.h"

namespace lorafuse {
namespace {

std::vector<Shape> shapes_after(const Graph& graph, const Op& op, const std::vector<ValueId>& inputs) {
  std::vector<Shape> shapes;
  for (ValueId id : inputs) shapes.push_back(graph.shape(id));
  return output_shapes(op, shapes);
}

}  // namespace

std::vector<ValueId> Graph::emit_all(Op op, std::vector<ValueId> inputs) {
  std::vector<ValueId> outputs;
  for (Shape& s : shapes_after(*this, op, inputs))
    outputs.push_back(value({name_of(op), std::move(s), output_dtype(op, outputs.size(), dtype), Storage::activation}));
  nodes.push_back({std::move(op), std::move(inputs), outputs, layer});
  return outputs;
}

void Graph::accumulate(Op op, std::vector<ValueId> inputs, std::vector<ValueId> outputs) {
  const std::vector<Shape> shapes = shapes_after(*this, op, inputs);
  CHECK(shapes.size() == outputs.size(), "SHAPE_MISMATCH", "[", name_of(op), "] makes ", shapes.size(), " values but received ",
        outputs.size(), " to add to");
  for (size_t i = 0; i < shapes.size(); i++)
    CHECK(shapes[i] == shape(outputs[i]), "SHAPE_MISMATCH", "[", name_of(op), "] makes ", shapes[i], " but received ", shape(outputs[i]),
          " to add to");
  nodes.push_back({std::move(op), std::move(inputs), std::move(outputs), layer});
}

}  // namespace lorafuse
