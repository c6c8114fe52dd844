#include "graph.h"

namespace lorafuse {

const char* name_of(const Op& op) {
  static constexpr const char* names[] = {
      "mat_mul",         "lora_mat_mul",  "weight_grad",     "conv2d",     "conv_transpose2d", "attention", "attention_grad", "group_norm",
      "group_norm_grad", "layer_norm",    "layer_norm_grad", "activation", "activation_grad",  "geglu",     "geglu_grad",     "add",
      "add_per_sample",  "sum_positions", "concat",          "slice",      "embedding",        "sinusoid",  "add_noise",      "mse_loss",
      "mse_loss_grad"};
  static_assert(std::size(names) == std::variant_size_v<Op>);
  return names[op.index()];
}

std::vector<ValueId> Graph::emit_all(Op op, std::vector<ValueId> inputs) {
  std::vector<Shape> shapes;
  for (ValueId id : inputs) shapes.push_back(shape(id));
  std::vector<ValueId> outputs;
  for (Shape& s : output_shapes(op, shapes))
    outputs.push_back(value({name_of(op), std::move(s), output_dtype(op, outputs.size(), dtype), Storage::activation}));
  nodes.push_back({std::move(op), std::move(inputs), outputs, layer, block});
  return outputs;
}

}  // namespace lorafuse
