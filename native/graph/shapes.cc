// The shapes of what each op makes.
#include "rules.h"

namespace lorafuse {
namespace {

using Shapes = std::vector<Shape>;

#define EXPECT(condition, ...) CHECK(condition, "SHAPE_MISMATCH", "[", op.name, "] ", __VA_ARGS__)

// The shape that a and b have both.
template <class AnyOp> const Shape& same(const AnyOp& op, const Shape& a, const Shape& b) {
  EXPECT(a == b, "expected equal shapes but received ", a, " and ", b);
  return a;
}

// The outputs of a product `out`, with the inputs of its epilogue checked.
template <class Product> Shapes finished(const Product& op, const Shapes& in, const Shape& out) {
  const auto [has_bias, has_residual, gate] = op.epilogue;
  const size_t bias = bias_input(op), residual = residual_input(op), x = gate_input(op);
  EXPECT(gate == Gate::none || !has_residual, "a gated product has no residual");
  EXPECT(gate != Gate::geglu_grad || !has_bias, "a product that ends in geglu_grad has no bias");
  if (gate == Gate::geglu) EXPECT(out[-1] % 2 == 0, "expected an even number of channels but the product is ", out);
  const Shape wide = out.with_channels(2 * out[-1]), narrow = out.with_channels(out[-1] / 2);
  const size_t expected = op.operands() + has_bias + has_residual + (gate == Gate::geglu_grad);
  if (x != kAbsent)
    EXPECT(in.size() == expected && in[x] == wide, "expected x ", wide, " as the last of ", expected, " inputs but received ", in.size(),
           " inputs, the last ", in.back());
  EXPECT(in.size() == expected, "expected ", expected, " inputs but received ", in.size());
  if (bias != kAbsent) EXPECT(in[bias] == Shape({out[-1]}), "expected bias [", out[-1], "] but received ", in[bias]);
  if (residual != kAbsent) EXPECT(in[residual] == out, "expected residual ", out, " but received ", in[residual]);
  if (gate == Gate::geglu) return {out, narrow};
  return {gate == Gate::geglu_grad ? wide : out};
}

// y and t of the layers with adapters: all y of one width where they are summed.
template <class Product> Shapes adapted(const Product& op, const Shapes& in) {
  const size_t count = op.scales.size();
  EXPECT(count > 0 && in.size() >= op.operands(), "expected ", op.operands(), " inputs for ", count, " layers but received ", in.size());
  Shapes products, ts;
  for (size_t i = 0; i < count; i++) {
    const Shape &x = in[op.x(i)], &w = in[op.w(i)], &a = in[op.reduce(i)], &b = in[op.expand(i)];
    const int rows = op.transposed, columns = 1 - rows;
    EXPECT(w.rank() == 2 && a.rank() == 2 && b.rank() == 2, "layer ", i, ": expected matrices but received ", w, ", ", a, ", ", b);
    EXPECT(w[columns] == x[-1] && a[columns] == x[-1] && b[columns] == a[rows] && b[rows] == w[rows], "layer ", i, ": x ", x, ", w ", w,
           ", and its adapter's ", a, " and ", b, " do not fit", rows ? " (transposed)" : "");
    const Shape y = x.with_channels(w[rows]);
    if (products.size() < op.products()) products.push_back(y);
    EXPECT(y[-1] == products.back()[-1] && y.rows() == products.back().rows(), "layer ", i, " makes ", y, " but the sum is ",
           products.back());
    ts.push_back(x.with_channels(a[rows]));
  }
  const auto [bias, residual, gate] = op.epilogue;
  EXPECT(products.size() == 1 || !(bias || residual || gate != Gate::none), "bias, residual and gate need one output but there are ",
         products.size());
  const Shapes first = finished(op, in, products[0]);
  products[0] = first[0];
  products.insert(products.end(), ts.begin(), ts.end());
  products.insert(products.end(), first.begin() + 1, first.end());
  return products;
}

// Along height or width, of a convolution's output.
template <class Convolution> int64_t extent(const Convolution& op, int64_t size) {
  return (size + op.before + op.after - op.kernel) / op.stride + 1;
}

template <class Norm> void expect_channels(const Norm& op, const Shapes& in) {
  EXPECT(in[1].elements() == in[0][-1] && in[2].elements() == in[0][-1], "expected gamma and beta [", in[0][-1], "] but received ", in[1],
         " and ", in[2]);
}

}  // namespace

template <> Shapes shapes_of(const MatMul& op, const Shapes& in) {
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
  return finished(op, in, out);
}

template <> Shapes shapes_of(const LoraMatMul& op, const Shapes& in) { return adapted(op, in); }
template <> Shapes shapes_of(const LoraMatMulGrad& op, const Shapes& in) { return adapted(op, in); }

template <> Shapes shapes_of(const WeightGrad& op, const Shapes& in) {
  EXPECT(in.size() == 2 * op.scales.size(), "expected ", 2 * op.scales.size(), " inputs but received ", in.size());
  Shapes gradients;
  for (size_t i = 0; i < in.size(); i += 2) {
    EXPECT(in[i].rows() == in[i + 1].rows(), "rows of ", in[i], " and ", in[i + 1], " differ");
    gradients.push_back({in[i][-1], in[i + 1][-1]});
  }
  return gradients;
}

template <> Shapes shapes_of(const Conv2d& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4, "expected x [B, H, W, C] but received ", in[0]);
  EXPECT(in[1].rank() == 3 && in[1][0] == op.kernel * op.kernel && in[1][2] == in[0][3], "expected weights [", op.kernel * op.kernel,
         ", N, ", in[0][3], "] but received ", in[1]);
  const int64_t height = extent(op, in[0][1]), width = extent(op, in[0][2]);
  EXPECT(height > 0 && width > 0, in[0], " is smaller than the kernel");
  const Shape out{in[0][0], height, width, in[1][1]};
  EXPECT(op.epilogue.gate == Gate::none, "a convolution has no gate");
  return finished(op, in, out);
}

template <> Shapes shapes_of(const ConvTranspose2d& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4 && in[1].rank() == 3 && in[1][0] == op.kernel * op.kernel && in[1][1] == in[0][3], "weights ", in[1],
         " do not fit x ", in[0]);
  const Shape out{in[0][0], op.height, op.width, in[1][2]};
  EXPECT(extent(op, op.height) == in[0][1] && extent(op, op.width) == in[0][2], "x ", in[0], " is not what a convolution makes of ", out);
  EXPECT(op.epilogue.gate == Gate::none, "a convolution has no gate");
  return finished(op, in, out);
}

template <> Shapes shapes_of(const ConvWeightGrad& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4 && in[1].rank() == 4, "expected two images but received ", in[0], " and ", in[1]);
  EXPECT(in[0][0] == in[1][0] && extent(op, in[1][1]) == in[0][1] && extent(op, in[1][2]) == in[0][2], in[0],
         " is not what a convolution makes of ", in[1]);
  return {Shape{op.kernel * op.kernel, in[0][3], in[1][3]}};
}

template <> Shapes shapes_of(const Upsample& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4, "expected x [B, H, W, C] but received ", in[0]);
  return {Shape{in[0][0], 2 * in[0][1], 2 * in[0][2], in[0][3]}};
}
template <> Shapes shapes_of(const UpsampleGrad& op, const Shapes& in) {
  EXPECT(in[0].rank() == 4 && in[0][1] % 2 == 0 && in[0][2] % 2 == 0, "expected dy [B, 2H, 2W, C] but received ", in[0]);
  return {Shape{in[0][0], in[0][1] / 2, in[0][2] / 2, in[0][3]}};
}

// Images count as H·W tokens, so q may be [B, H, W, C] and k [B, S, C].
template <> Shapes shapes_of(const Attention& op, const Shapes& in) {
  EXPECT(in[1] == in[2] && in[0][0] == in[1][0] && in[0][-1] == in[1][-1] && in[0][-1] % op.heads == 0, "q ", in[0], ", k ", in[1], ", v ",
         in[2], " do not fit ", op.heads, " heads");
  return {in[0], Shape{in[0][0], op.heads, in[0].rows() / in[0][0]}};
}

template <> Shapes shapes_of(const AttentionGrad& op, const Shapes& in) {
  same(op, in[0], in[5]);
  return {in[0], in[1], in[2]};
}

template <> Shapes shapes_of(const GroupNorm& op, const Shapes& in) {
  EXPECT(in[0][-1] % op.groups == 0, "channels ", in[0][-1], " are not divisible by ", op.groups, " groups");
  expect_channels(op, in);
  return {in[0], Shape{in[0][0], op.groups, 2}};
}
template <> Shapes shapes_of(const GroupNormGrad& op, const Shapes& in) {
  same(op, in[0], in[4]);
  if (op.residual) same(op, in[0], in[5]);
  return {in[0]};
}

template <> Shapes shapes_of(const LayerNorm& op, const Shapes& in) {
  expect_channels(op, in);
  return {in[0], Shape{in[0].rows(), 2}};
}
template <> Shapes shapes_of(const LayerNormGrad& op, const Shapes& in) {
  same(op, in[0], in[3]);
  if (op.residual) same(op, in[0], in[4]);
  return {in[0]};
}

template <> Shapes shapes_of(const Activation&, const Shapes& in) { return {in[0]}; }
template <> Shapes shapes_of(const ActivationGrad& op, const Shapes& in) { return {same(op, in[0], in[1])}; }

template <> Shapes shapes_of(const Geglu& op, const Shapes& in) {
  EXPECT(in[0][-1] % 2 == 0, "expected an even number of channels but received ", in[0]);
  return {in[0].with_channels(in[0][-1] / 2)};
}
template <> Shapes shapes_of(const GegluGrad& op, const Shapes& in) {
  same(op, in[0].with_channels(in[0][-1] / 2), in[1]);
  return {in[0]};
}

template <> Shapes shapes_of(const Add& op, const Shapes& in) { return {same(op, in[0], in[1])}; }

template <> Shapes shapes_of(const AddPerSample& op, const Shapes& in) {
  same(op, Shape({in[0][0], in[0][-1]}), in[1]);
  return {in[0]};
}
template <> Shapes shapes_of(const SumPositions&, const Shapes& in) { return {Shape{in[0][0], in[0][-1]}}; }

template <> Shapes shapes_of(const Concat& op, const Shapes& in) {
  EXPECT(in[0].with_channels(1) == in[1].with_channels(1), in[0], " and ", in[1], " differ in more than channels");
  return {in[0].with_channels(in[0][-1] + in[1][-1])};
}
template <> Shapes shapes_of(const Slice& op, const Shapes& in) {
  EXPECT(0 <= op.begin && op.begin < op.end && op.end <= in[0][-1], "channels ", op.begin, "…", op.end, " are not in ", in[0]);
  return {in[0].with_channels(op.end - op.begin)};
}

template <> Shapes shapes_of(const Embedding& op, const Shapes& in) {
  EXPECT(in[0].rank() == 2 && in[1][-1] == in[2][-1] && in[0][1] <= in[2][0], "ids ", in[0], " do not fit positions ", in[2]);
  return {Shape{in[0][0], in[0][1], in[1][1]}};
}
template <> Shapes shapes_of(const Gather&, const Shapes& in) { return {in[1].followed_by(in[0][-1])}; }
template <> Shapes shapes_of(const GatherGrad& op, const Shapes& in) {
  same(op, in[0].followed_by(op.shape[-1]), in[1]);
  return {op.shape};
}
template <> Shapes shapes_of(const Sinusoid& op, const Shapes& in) {
  EXPECT(in[0].rank() == 1 || in[0].rank() == 2, "expected t [B] or [B, n] but received ", in[0]);
  return {Shape{in[0][0], in[0].elements() / in[0][0] * op.dim}};
}

template <> Shapes shapes_of(const AddNoise& op, const Shapes& in) {
  same(op, in[0], in[1]);
  same(op, Shape({in[0][0], 2}), in[2]);
  return {in[0]};
}
template <> Shapes shapes_of(const MseLoss& op, const Shapes& in) {
  same(op, in[0], in[1]);
  same(op, Shape({in[0][0]}), in[2]);
  return {in[2]};
}
template <> Shapes shapes_of(const MseLossGrad& op, const Shapes& in) { return {same(op, in[0], in[1])}; }

std::vector<Shape> output_shapes(const Op& op, const std::vector<Shape>& inputs) {
  return std::visit([&](const auto& o) { return shapes_of(o, inputs); }, op);
}

DType output_dtype(const Op& op, size_t position, DType dtype) {
  const bool is_f32 = std::visit(
      [&]<class AnyOp>(const AnyOp& o) {
        if constexpr (is_one_of<AnyOp, Attention, GroupNorm, LayerNorm>) return position == 1;  // statistics
        else if constexpr (requires { o.f32; }) return o.f32;
        else return std::is_same_v<AnyOp, MseLoss> || requires { o.accumulates; };
      },
      op);
  return is_f32 ? DType::f32 : dtype;
}

}  // namespace lorafuse
