// The layers that networks are made of.
#include "builder.h"

namespace lorafuse {

Builder::Builder(Network network, DType dtype, Shapes shapes) : network_(std::move(network)), shapes_(std::move(shapes)) {
  graph.dtype = dtype;
}

ValueId Builder::input(const std::string& name, const std::vector<int64_t>& expected, DType dtype) {
  const auto given = shapes_.find(name);
  std::vector<int64_t> extents;
  std::string words;
  for (int64_t e : expected) {
    const int i = static_cast<int>(extents.size());
    extents.push_back(std::abs(e));  // the smallest that fits
    words += (i ? ", " : "") + (e >= 0 ? std::to_string(e) : e == kAny ? "any" : text("a multiple of ", -e));
    if (e >= 0 || given == shapes_.end() || given->second.rank() <= i) continue;
    const int64_t received = given->second[i];
    if (received > 0 && received % e == 0) extents.back() = received;
  }
  const Shape shape(std::move(extents));
  CHECK(given == shapes_.end() || given->second == shape, "SHAPE_MISMATCH", "Expected [", words, "] for the input ", name, " but received ",
        given->second);
  return graph.value({name, shape, dtype, Storage::input});
}

ValueId Builder::weight(const std::string& name, const std::vector<int64_t>& file_shape, Form form) {
  const auto [known, is_new] = weights_.try_emplace({network_.name, name}, kNone);
  if (!is_new) return known->second;
  const WeightEntry* entry = network_.weights->find(name);
  const Shape expected(file_shape);
  CHECK(entry, "WEIGHT_MISSING", "Expected tensor ", name, " ", expected, " in the model's files but it is not there");
  const Shape& s = entry->shape;
  // A 1×1 convolution and a linear layer are one matrix.
  const bool same = s == expected || (s.rank() == 4 && s[2] * s[3] == 1 && Shape({s[0], s[1]}) == expected);
  CHECK(same, "WEIGHT_SHAPE", "Expected tensor ", name, " to be ", expected, " but the model's files have ", s);
  const Shape held = form == Form::summed_taps  ? Shape{16, s[1], s[0]}
                     : form == Form::taps_first ? Shape{s[2] * s[3], s[0], s[1]}
                                                : expected;
  return known->second = graph.value({name, held, network_.weights->dtype(name, form), Storage::weight, network_.name, form});
}

ValueId Builder::parameter(const std::string& name, Shape shape) {
  return graph.value({name, std::move(shape), DType::f32, Storage::parameter, network_.name, Form::as_is, group_});
}

ValueId Builder::adapted(const Layer& layer, ValueId x, const std::function<ValueId()>& frozen) {
  layers.push_back(layer);
  const auto adapter = network_.adapters->find(layer.path);
  if (adapter == network_.adapters->end()) return frozen();
  group_ = adapter->second.group;
  return std::visit([&](const auto& kind) { return apply(kind, *this, layer, x, frozen); }, adapter->second.kind);
}

ValueId Builder::linear(const std::string& path, ValueId x, int64_t out_features, bool bias) {
  const Scope scope(*this, path);
  const WeightEntry* entry = network_.weights->find(path + ".weight");
  const Layer layer{path, entry && entry->shape.rank() == 4, shape(x)[-1], out_features};
  return adapted(layer, x, [&] {
    MatMul op;
    std::vector<ValueId> inputs = {x, weight(path + ".weight", {out_features, layer.in_features})};
    if ((op.epilogue.bias = bias)) inputs.push_back(weight(path + ".bias", {out_features}));
    return emit(std::move(op), std::move(inputs));
  });
}

ValueId Builder::conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op) {
  const Scope scope(*this, path);
  return adapted({path, true, shape(x)[-1], out_channels, op}, x, [&] { return frozen_conv(path, x, out_channels, op); });
}

ValueId Builder::frozen_conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op) {
  const Scope scope(*this, path);
  op.epilogue.bias = true;
  return emit(op, {x, weight(path + ".weight", {out_channels, shape(x)[-1], op.kernel, op.kernel}, Form::taps_first),
                   weight(path + ".bias", {out_channels})});
}

ValueId Builder::group_norm(const std::string& path, ValueId x, int64_t groups, float eps, bool silu) {
  const Scope scope(*this, path);
  const int64_t channels = shape(x)[-1];
  return emit(GroupNorm{to_int(groups, "groups"), eps, silu},
              {x, weight(path + ".weight", {channels}), weight(path + ".bias", {channels})});
}

ValueId Builder::layer_norm(const std::string& path, ValueId x, float eps) {
  const Scope scope(*this, path);
  const int64_t channels = shape(x)[-1];
  return emit(LayerNorm{eps}, {x, weight(path + ".weight", {channels}), weight(path + ".bias", {channels})});
}

ValueId Builder::attention(const std::string& path, ValueId x, ValueId source, int64_t heads, bool bias) {
  const int64_t width = shape(x)[-1];
  const ValueId q = linear(path + ".to_q", x, width, bias);
  const ValueId k = linear(path + ".to_k", source, width, bias);
  const ValueId v = linear(path + ".to_v", source, width, bias);
  const Scope scope(*this, path);
  return linear(path + ".to_out.0", emit(Attention{to_int(heads, "heads")}, {q, k, v}), width);
}

// diffusers:models/resnet.py, ResnetBlock2D
ValueId Builder::resnet(const std::string& path, ValueId x, ValueId embedding, int64_t out_channels, int64_t groups, float eps) {
  const Block block(*this, path);
  ValueId h = conv(path + ".conv1", group_norm(path + ".norm1", x, groups, eps, true), out_channels);
  if (embedding != kNone) h = emit(AddPerSample{}, {h, linear(path + ".time_emb_proj", embedding, out_channels)});
  h = conv(path + ".conv2", group_norm(path + ".norm2", h, groups, eps, true), out_channels);
  const ValueId shortcut = shape(x)[-1] == out_channels ? x : linear(path + ".conv_shortcut", x, out_channels);
  return emit(Add{}, {shortcut, h});
}

// After doubling, only 2×2 of the 3×3 pixels under the kernel differ: this convolves those with sums of the taps (base/weights.cc).
ValueId Builder::upsample(const std::string& path, ValueId x) {
  const Scope scope(*this, path);
  const Shape s = shape(x);
  const Layer layer{.path = path, .is_conv = true, .in_features = s[3], .out_features = s[3], .window = {}, .doubles = true};
  return adapted(layer, x, [&] {
    return emit(ConvTranspose2d{.kernel = 4, .stride = 2, .height = 2 * s[1], .width = 2 * s[2], .epilogue = {.bias = true}},
                {x, weight(path + ".weight", {s[3], s[3], 3, 3}, Form::summed_taps), weight(path + ".bias", {s[3]})});
  });
}

}  // namespace lorafuse
