// Rows of mat_mul, lora_mat_mul and weight_grad: every width to 17, the edges of panels, tiles, jobs and chunks of depth, SD's own cut
// down.
#include "op_rows.h"

namespace lorafuse::test {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

// y = Σ x_i · w_iᵀ; depths[i] and pairs[i] belong together.
void row(const Shape& rows, int64_t outputs, const std::vector<int64_t>& depths, DType dtype = DType::f32,
         std::vector<MatMul::Pair> pairs = {{}}, Epilogue end = {}) {
  Row r{MatMul{pairs, end}, {}};
  for (size_t i = 0; i < depths.size(); i++) {
    r.inputs.push_back({rows.with_channels(depths[i])});
    // The second pair is an adapter: always f32.
    r.inputs.push_back({pairs[i].transposed ? Shape{depths[i], outputs} : Shape{outputs, depths[i]}, i ? DType::f32 : dtype});
  }
  if (end.bias) r.inputs.push_back({Shape{outputs}, dtype});
  if (end.residual) r.inputs.push_back({rows.with_channels(outputs)});
  if (end.gate == Gate::geglu_grad) r.inputs.push_back({rows.with_channels(2 * outputs)});
  op_row(std::move(r));
}

struct Lora {
  int64_t outputs, inputs, rank;
  float scale = 1;
};

// Layers with adapters: they share x, or in a backward pass (transposed) are summed.
template <class Adapted>
void adapted_row(Adapted op, const Shape& rows, const std::vector<Lora>& layers) {
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

void gradient_row(int64_t rows, int64_t outputs, int64_t inputs, float scale = 1) {
  op_row({WeightGrad{{scale}}, {{Shape{rows, outputs}}, {Shape{rows, inputs}}}});
}
// Each [rows, N, K], in one op.
void gradients_row(const std::vector<std::array<int64_t, 3>>& matrices) {
  Row r{WeightGrad{{}}, {}};
  for (const auto& [rows, outputs, inputs] : matrices) {
    std::get<WeightGrad>(r.op).scales.push_back(1 + 0.25f * static_cast<float>(r.inputs.size()));
    r.inputs.insert(r.inputs.end(), {{Shape{rows, outputs}}, {Shape{rows, inputs}}});
  }
  op_row(std::move(r));
}

}  // namespace

SUITE(mat_mul) {
  for (DType dtype : kTypes) {
    row({7, 1}, 40, {33}, dtype);
    row({7, 1}, 40, {33}, dtype, {{1, true}});
    row({2, 9, 1}, 48, {40}, dtype, {{}}, {true, false});
    row({2, 3, 5, 1}, 70, {65}, dtype, {{0.5f, true}}, {true, true});
    row({1, 77, 1}, 64, {768}, dtype);                                                  // k and v of cross attention
    row({1, 4, 4, 1}, 1280, {320}, dtype, {{}}, {true, false});                         // the feed-forward's projection
    row({1, 8, 8, 1}, 80, {320, 16}, dtype, {{}, {0.25f}}, {true, true});               // with an adapter
    row({1, 8, 8, 1}, 80, {96, 16}, dtype, {{1, true}, {0.25f, true}}, {false, true});  // its input gradient
  }
  for (int64_t width = 1; width <= 17; width++) {
    row({3, 1}, width, {18 - width});
    row({5, 1}, width, {18 - width}, DType::f16, {{1, true}});
  }
  for (int64_t columns : {31, 32, 33, 47, 48, 49, 63, 64, 65, 159, 160, 161, 319, 320, 321}) row({5, 1}, columns, {19});
  for (int64_t rows : {1, 5, 6, 7, 13, 14, 15, 28, 29, 130}) row({rows, 1}, 35, {20}, DType::f32, {{}}, {true, true});
  for (int64_t depth : {319, 320, 321, 639, 640, 641, 1500}) row({9, 1}, 34, {depth}, DType::bf16);
  row({200, 1}, 330, {33});                // several jobs both ways
  for (bool transposed : {false, true}) {  // the GPU's larger tiles
    row({384, 1}, 512, {64}, DType::f32, {{1, transposed}}, {true, true});
    row({260, 1}, 264, {72}, DType::f32, {{1, transposed}});
    row({3, 1}, 1280, {648}, DType::f32, {{1, transposed}}, {true, true});  // k in parts
  }
  row({4, 1}, 20, {7, 3, 321}, DType::f32, {{}, {-2, true}, {0.125f}});
}

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
        row({2, 9, 1}, width(f), {40}, DType::f32, {{1, transposed}}, {bias, false, gate});
      }
      for (int64_t rank : {1, 9, 16, 17, 64, 65}) lora_row({70, 1}, {{width(64), 24, rank, 0.75f}}, transposed, {false, false, gate});
      for (int64_t rows : {1, 63, 64, 65, 129, 300}) lora_row({rows, 1}, {{width(128), 32, 16, 2}}, transposed, {bias, false, gate});
      lora_row({2, 5, 7, 1}, {{width(80), 30, 4}}, transposed, {bias, false, gate});  // x in no chunks
      row({300, 1}, width(136), {72}, DType::f32, {{1, transposed}}, {false, false, gate});
      row({5, 1}, width(16), {24}, DType::f32, {{0.5f, transposed}}, {bias, false, gate});
      row({5, 1}, width(16), {24, 4}, DType::f32, {{1, transposed}, {0.5f, transposed}}, {bias, false, gate});
    }
}

SUITE(weight_grad) {
  for (int64_t width = 1; width <= 17; width++) gradient_row(6, width, 18 - width);
  for (int64_t rows : {1, 13, 319, 320, 321, 700}) gradient_row(rows, 16, 33, 0.5f);
  for (int64_t rank : {1, 4, 16, 64}) {
    gradient_row(64, 320, rank, 0.25f);
    gradient_row(64, rank, 320, 0.25f);
  }
  gradient_row(50, 161, 65);
  gradients_row({{64, 16, 320}, {64, 320, 16}, {64, 16, 320}, {77, 16, 24}, {77, 320, 16}, {5, 2560, 16}});
  gradients_row({{700, 16, 40}, {33, 40, 16}, {1, 16, 8}});  // one is split, one is not
  gradients_row({{64, 4, 40}, {64, 40, 4}, {320, 64, 136}, {320, 136, 64}, {9, 3, 5}});
  gradients_row(std::vector<std::array<int64_t, 3>>(101, {9, 8, 16}));  // more than one launch takes
}

}  // namespace lorafuse::test
