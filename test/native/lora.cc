// Rows of lora_mat_mul and lora_mat_mul_grad, and of products that end in a GEGLU or its gradient.
#include "product_rows.h"

namespace lorafuse::test {
namespace {

struct Lora {
  int64_t outputs, inputs, rank;
  float scale = 1;
};

// Layers with adapters: they share x, or in a backward pass (transposed) are summed.
template <class Adapted> void adapted_row(Adapted op, const Shape& rows, const std::vector<Lora>& layers) {
  const Epilogue end = op.epilogue;
  op.scales.clear();
  Row r{op, {}};
  for (const Lora& layer : layers) {
    op.scales.push_back(layer.scale);
    const auto matrix = [&](int64_t a, int64_t b) { return Input{op.transposed ? Shape{b, a} : Shape{a, b}}; };
    if (op.x(op.scales.size() - 1) == r.inputs.size()) r.inputs.push_back({rows.with_channels(layer.inputs)});
    r.inputs.insert(r.inputs.end(),
                    {matrix(layer.outputs, layer.inputs), matrix(layer.rank, layer.inputs), matrix(layer.outputs, layer.rank)});
  }
  if (end.bias) r.inputs.push_back({Shape{layers[0].outputs}});
  if (end.residual) r.inputs.push_back({rows.with_channels(layers[0].outputs)});
  if (end.gate == Gate::geglu_grad) r.inputs.push_back({rows.with_channels(2 * layers[0].outputs)});
  r.op = std::move(op);
  op_row(std::move(r));
}
void lora_row(const Shape& rows, const std::vector<Lora>& layers, bool transposed = false, Epilogue end = {}) {
  if (transposed) adapted_row(LoraMatMulGrad{{}, end}, rows, layers);
  else adapted_row(LoraMatMul{{}, end}, rows, layers);
}

}  // namespace

SUITE(lora_mat_mul) {
  lora_row({70, 1}, {{112, 96, 16}, {120, 96, 4, 0.5f}, {8, 96, 9, 3}});
  lora_row({70, 1}, {{112, 96, 16}, {112, 40, 4, 0.5f}, {112, 8, 9, 3}}, true, {false, true});
  for (bool transposed : {false, true}) {
    lora_row({2, 3, 5, 1}, {{40, 64, 4, 0.25f}}, transposed, {true, true});
    lora_row({1, 8, 8, 1}, {{320, 320, 16, 2}}, transposed, {!transposed, true});
    lora_row({150, 1}, {{120, 72, 8, 0.5f}}, transposed);
    for (int64_t rank : {1, 2, 3, 5, 7, 17, 32, 33, 48, 63, 64, 65, 128}) lora_row({9, 1}, {{136, 40, rank, 0.75f}}, transposed);
    for (int64_t width : {1, 7, 9, 15}) lora_row({5, 1}, {{width, 24 - width, 3, 0.5f}}, transposed);
    for (int64_t rows : {1, 63, 64, 65, 127, 128, 129, 300}) lora_row({rows, 1}, {{128, 32, 16, 0.5f}, {128, 32, 16}}, transposed);
    lora_row({3, 1}, {{8, 8, 2}, {8, 8, 2}, {8, 8, 2}, {8, 8, 2}, {8, 8, 2}}, transposed);  // more than a kernel takes at once
    lora_row({9, 1}, {{24, 1288, 9, 0.5f}}, transposed, {!transposed, true});               // k in parts
    lora_row({70, 1}, {{136, 1304, 33, 0.5f}}, transposed, {true, false});
  }
  // In parts that end inside terms and hold several; as wide as no chunk.
  lora_row({37, 1}, {{40, 680, 16}, {40, 296, 4, 0.5f}, {40, 40, 9, 3}, {40, 40, 1}}, true, {false, true});
  lora_row({37, 1}, {{9, 680, 16}, {40, 680, 4, 0.5f}, {24, 680, 5, 3}});
}

// Into and out of a feed-forward's GEGLU: forward with as many outputs as two of them, backward the gradient of one.
SUITE(geglu_mat_mul) {
  for (bool transposed : {false, true})
    for (Gate gate : {Gate::geglu, Gate::geglu_grad}) {
      const auto width = [&](int64_t f) { return gate == Gate::geglu ? 2 * f : f; };
      const bool bias = gate == Gate::geglu;
      for (int64_t f : {1, 4, 7, 8, 24, 56, 64, 72, 136}) {
        lora_row({2, 9, 1}, {{width(f), 40, 4, 0.5f}}, transposed, {bias, false, gate});
        product_row({2, 9, 1}, width(f), {40}, DType::f32, {{1, transposed}}, {bias, false, gate});
      }
      for (int64_t rank : {1, 9, 16, 17, 64, 65}) lora_row({70, 1}, {{width(64), 24, rank, 0.75f}}, transposed, {false, false, gate});
      for (int64_t rows : {1, 63, 64, 65, 129, 300}) lora_row({rows, 1}, {{width(128), 32, 16, 2}}, transposed, {bias, false, gate});
      lora_row({2, 5, 7, 1}, {{width(80), 30, 4}}, transposed, {bias, false, gate});  // x in no chunks
      product_row({300, 1}, width(136), {72}, DType::f32, {{1, transposed}}, {false, false, gate});
      product_row({5, 1}, width(16), {24}, DType::f32, {{0.5f, transposed}}, {bias, false, gate});
      product_row({5, 1}, width(16), {24, 4}, DType::f32, {{1, transposed}, {0.5f, transposed}}, {bias, false, gate});
    }
}

}  // namespace lorafuse::test
