// The shape rule of every op.
#include "graph.h"

namespace lorafuse {
namespace {

using Shapes = std::vector<Shape>;

#define EXPECT(condition, ...) CHECK(condition, "SHAPE_MISMATCH", "[", name, "] ", __VA_ARGS__)

// Which inputs follow the fixed ones, checked: bias is [channels], residual has the output's shape.
void expect_extras(const char* name, const Shapes& in, size_t fixed, bool bias, bool residual, const Shape& out) {
  EXPECT(in.size() == fixed + bias + residual, "expected ", fixed + bias + residual, " inputs but received ", in.size());
  if (bias) EXPECT(in[fixed] == Shape({out[-1]}), "expected bias [", out[-1], "] but received ", in[fixed]);
  if (residual) EXPECT(in.back() == out, "expected residual ", out, " but received ", in.back());
}

// The outputs of a product `out` with the inputs after the `fixed` ones and what its gate makes of it.
Shapes gated(const char* name, Gate gate, Shapes in, size_t fixed, bool bias, bool residual, const Shape& out) {
  EXPECT(gate == Gate::none || !residual, "a gated product has no residual");
  const Shape wide = out.with_channels(2 * out[-1]), narrow = out.with_channels(out[-1] / 2);
  if (gate == Gate::geglu) EXPECT(out[-1] % 2 == 0, "expected an even number of channels but the product is ", out);
  if (gate == Gate::geglu_grad) {
    EXPECT(!bias && in.size() == fixed + 1 && in.back() == wide, "expected x ", wide, " after ", fixed, " inputs but received ", in.size(),
           " inputs, the last ", in.back());
    in.pop_back();
  }
  expect_extras(name, in, fixed, bias, residual, out);
  if (gate == Gate::geglu) return {out, narrow};
  return {gate == Gate::geglu_grad ? wide : out};
}

void expect_same(const char* name, const Shape& a, const Shape& b) { EXPECT(a == b, "expected equal shapes but received ", a, " and ", b); }

Shapes infer(const char* name, const MatMul& op, const Shapes& in) {
  const size_t pairs = op.pairs.size();
  EXPECT(pairs > 0 && in.size() >= 2 * pairs, "expected ", pairs, " operand pairs but received ", in.size(), " inputs");
  auto features = [&](size_t i, bool output) { return in[2 * i + 1][output != op.pairs[i].transposed ? 0 : 1]; };
  const Shape out = in[0].with_channels(features(0, true));
  for (size_t i = 0; i < pairs; i++) {
    EXPECT(
        in[2 * i + 1].rank() == 2 && features(i, false) == in[2 * i][-1] && features(i, true) == out[-1] && in[2 * i].rows() == out.rows(),
        "operand pair ", i, ": ", in[2 * i], " does not multiply ", in[2 * i + 1], op.pairs[i].transposed ? " (transposed)" : "", " to ",
        out);
  }
  return gated(name, op.gate, in, 2 * pairs, op.bias, op.residual, out);
}

Shapes infer(const char* name, const LoraMatMul& op, const Shapes& in) {
  const size_t count = op.terms.size();
  EXPECT(count > 0 && in.size() >= 4 * count, "expected ", count, " terms of 4 inputs but received ", in.size(), " inputs");
  Shapes products, down;
  for (size_t i = 0; i < count; i++) {
    const Shape &x = in[4 * i], &w = in[4 * i + 1], &a = in[4 * i + 2], &b = in[4 * i + 3];
    const int rows = op.terms[i].transposed, columns = 1 - rows;
    EXPECT(w.rank() == 2 && a.rank() == 2 && b.rank() == 2, "term ", i, ": expected matrices but received ", w, ", ", a, ", ", b);
    EXPECT(w[columns] == x[-1] && a[columns] == x[-1] && b[columns] == a[rows] && b[rows] == w[rows], "term ", i, ": x ", x, ", w ", w,
           ", down ", a, ", up ", b, " do not fit", rows ? " (transposed)" : "");
    const Shape y = x.with_channels(w[rows]);
    if (i == 0 || !op.sum) products.push_back(y);
    EXPECT(y[-1] == products.back()[-1] && y.rows() == products.back().rows(), "term ", i, " makes ", y, " but the sum is ",
           products.back());
    down.push_back(x.with_channels(a[rows]));
  }
  const bool extras = op.bias || op.residual || op.gate != Gate::none;
  EXPECT(products.size() == 1 || !extras, "bias, residual and gate need one output but there are ", products.size());
  const Shapes first = gated(name, op.gate, in, 4 * count, op.bias, op.residual, products[0]);
  products[0] = first[0];
  products.insert(products.end(), down.begin(), down.end());
  products.insert(products.end(), first.begin() + 1, first.end());
  return products;
}

Shapes infer(const char* name, const WeightGrad& op, const Shapes& in) {
  EXPECT(in.size() == 2 * op.scales.size(), "expected ", 2 * op.scales.size(), " inputs but received ", in.size());
  Shapes gradients;
  for (size_t i = 0; i < in.size(); i += 2) {
    EXPECT(in[i].rows() == in[i + 1].rows(), "rows of ", in[i], " and ", in[i + 1], " differ");
    gradients.push_back({in[i][-1], in[i + 1][-1]});
  }
  return gradients;
}

Shapes infer(const char* name, const Conv2d& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4, "expected x [B, H, W, C] but received ", in[0]);
  EXPECT(in[1].rank() == 3 && in[1][0] == op.kernel * op.kernel && in[1][2] == in[0][3], "expected weights [", op.kernel * op.kernel,
         ", N, ", in[0][3], "] but received ", in[1]);
  auto extent = [&](int64_t size) { return (size + op.before + op.after - op.kernel) / op.stride + 1; };
  const Shape out{in[0][0], extent(in[0][1]), extent(in[0][2]), in[1][1]};
  EXPECT(out[1] > 0 && out[2] > 0, in[0], " is smaller than the kernel");
  expect_extras(name, in, 2, op.bias, op.residual, out);
  return {out};
}

Shapes infer(const char* name, const ConvTranspose2d& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4 && in[1].rank() == 3 && in[1][0] == op.kernel * op.kernel && in[1][1] == in[0][3], "weights ", in[1],
         " do not fit x ", in[0]);
  auto extent = [&](int64_t size) { return (size + op.before + op.after - op.kernel) / op.stride + 1; };
  const Shape out{in[0][0], op.height, op.width, in[1][2]};
  EXPECT(extent(op.height) == in[0][1] && extent(op.width) == in[0][2], "x ", in[0], " is not what a convolution makes of ", out);
  expect_extras(name, in, 2, op.bias, op.residual, out);
  return {out};
}

// Images count as H·W tokens, so q may be [B, H, W, C] and k [B, S, C].
Shapes infer(const char* name, const Attention& op, const Shapes& in) {
  EXPECT(in[1] == in[2] && in[0][0] == in[1][0] && in[0][-1] == in[1][-1] && in[0][-1] % op.heads == 0, "q ", in[0], ", k ", in[1], ", v ",
         in[2], " do not fit ", op.heads, " heads");
  return {in[0], Shape{in[0][0], op.heads, in[0].rows() / in[0][0]}};
}

Shapes infer(const char* name, const AttentionGrad&, const Shapes& in) {
  expect_same(name, in[0], in[5]);
  return {in[0], in[1], in[2]};
}

Shapes infer(const char* name, const GroupNorm& op, const Shapes& in) {
  EXPECT(in[0][-1] % op.groups == 0, "channels ", in[0][-1], " are not divisible by ", op.groups, " groups");
  EXPECT(in[1].elements() == in[0][-1] && in[2].elements() == in[0][-1], "expected gamma and beta [", in[0][-1], "] but received ", in[1]);
  return {in[0], Shape{in[0][0], op.groups, 2}};
}
Shapes infer(const char* name, const GroupNormGrad& op, const Shapes& in) {
  expect_same(name, in[0], in[4]);
  if (op.residual) expect_same(name, in[0], in[5]);
  return {in[0]};
}

Shapes infer(const char* name, const LayerNorm&, const Shapes& in) {
  EXPECT(in[1].elements() == in[0][-1] && in[2].elements() == in[0][-1], "expected gamma and beta [", in[0][-1], "] but received ", in[1]);
  return {in[0], Shape{in[0].rows(), 2}};
}
Shapes infer(const char* name, const LayerNormGrad& op, const Shapes& in) {
  expect_same(name, in[0], in[3]);
  if (op.residual) expect_same(name, in[0], in[4]);
  return {in[0]};
}

Shapes infer(const char*, const Activation&, const Shapes& in) { return {in[0]}; }
Shapes infer(const char* name, const ActivationGrad&, const Shapes& in) {
  expect_same(name, in[0], in[1]);
  return {in[0]};
}

Shapes infer(const char* name, const Geglu&, const Shapes& in) {
  EXPECT(in[0][-1] % 2 == 0, "expected an even number of channels but received ", in[0]);
  return {in[0].with_channels(in[0][-1] / 2)};
}
Shapes infer(const char* name, const GegluGrad&, const Shapes& in) {
  expect_same(name, in[0].with_channels(in[0][-1] / 2), in[1]);
  return {in[0]};
}

Shapes infer(const char* name, const Add&, const Shapes& in) {
  expect_same(name, in[0], in[1]);
  return {in[0]};
}

Shapes infer(const char* name, const AddPerSample&, const Shapes& in) {
  expect_same(name, Shape({in[0][0], in[0][-1]}), in[1]);
  return {in[0]};
}
Shapes infer(const char*, const SumPositions&, const Shapes& in) { return {Shape{in[0][0], in[0][-1]}}; }

Shapes infer(const char* name, const Concat&, const Shapes& in) {
  EXPECT(in[0].with_channels(1) == in[1].with_channels(1), in[0], " and ", in[1], " differ in more than channels");
  return {in[0].with_channels(in[0][-1] + in[1][-1])};
}
Shapes infer(const char* name, const Slice& op, const Shapes& in) {
  EXPECT(0 <= op.begin && op.begin < op.end && op.end <= in[0][-1], "channels ", op.begin, "…", op.end, " are not in ", in[0]);
  return {in[0].with_channels(op.end - op.begin)};
}

Shapes infer(const char* name, const Embedding&, const Shapes& in) {
  EXPECT(in[0].rank() == 2 && in[1][-1] == in[2][-1] && in[0][1] <= in[2][0], "ids ", in[0], " do not fit positions ", in[2]);
  return {Shape{in[0][0], in[0][1], in[1][1]}};
}
Shapes infer(const char* name, const Sinusoid& op, const Shapes& in) {
  EXPECT(in[0].rank() == 1 || in[0].rank() == 2, "expected t [B] or [B, n] but received ", in[0]);
  return {Shape{in[0][0], in[0].elements() / in[0][0] * op.dim}};
}

Shapes infer(const char* name, const AddNoise&, const Shapes& in) {
  expect_same(name, in[0], in[1]);
  expect_same(name, Shape({in[0][0], 2}), in[2]);
  return {in[0]};
}
Shapes infer(const char* name, const MseLoss&, const Shapes& in) {
  expect_same(name, in[0], in[1]);
  expect_same(name, Shape({in[0][0]}), in[2]);
  return {in[2]};
}
Shapes infer(const char* name, const MseLossGrad&, const Shapes& in) {
  expect_same(name, in[0], in[1]);
  return {in[0]};
}

}  // namespace

std::vector<Shape> output_shapes(const Op& op, const std::vector<Shape>& inputs) {
  return std::visit([&](const auto& o) { return infer(name_of(op), o, inputs); }, op);
}

DType output_dtype(const Op& op, size_t position, DType dtype) {
  const bool is_statistics = position == 1 && (std::holds_alternative<Attention>(op) || std::holds_alternative<GroupNorm>(op) ||
                                               std::holds_alternative<LayerNorm>(op));
  const auto* noise = std::get_if<AddNoise>(&op);
  if (noise && noise->f32) return DType::f32;
  return is_statistics || std::holds_alternative<MseLoss>(op) || std::holds_alternative<WeightGrad>(op) ? DType::f32 : dtype;
}

}  // namespace lorafuse
