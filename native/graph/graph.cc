#include "graph.h"

namespace lorafuse {

std::vector<ValueId> Graph::emit_all(Op op, std::vector<ValueId> inputs) {
  std::vector<ValueId> outputs;
  for (Shape& s : output_shapes(op, shapes(inputs)))
    outputs.push_back(value({name_of(op), std::move(s), output_dtype(op, outputs.size(), dtype), Storage::activation}));
  nodes.push_back({std::move(op), std::move(inputs), outputs, layer, block, part});
  return outputs;
}

void Graph::accumulate(Op op, std::vector<ValueId> inputs, std::vector<ValueId> outputs) {
  const std::vector<Shape> made = output_shapes(op, shapes(inputs));
  CHECK(made.size() == outputs.size(), "SHAPE_MISMATCH", "[", name_of(op), "] makes ", made.size(), " values but received ", outputs.size(),
        " to add to");
  for (size_t i = 0; i < made.size(); i++)
    CHECK(made[i] == shape(outputs[i]), "SHAPE_MISMATCH", "[", name_of(op), "] makes ", made[i], " but received ", shape(outputs[i]),
          " to add to");
  nodes.push_back({std::move(op), std::move(inputs), std::move(outputs), layer, block, part});
}

}  // namespace lorafuse
