// The layers the networks are made of.
#include "model.h"

namespace lorafuse {

ValueId Builder::weight(const std::string& name, const std::vector<int64_t>& file_shape, bool upsamples) {
  const auto known = values_.find(name);
  if (known != values_.end()) return known->second;
  const WeightEntry* entry = weights_.find(name);
  CHECK(entry, "WEIGHT_MISSING", "Expected tensor ", name, " ", Shape(file_shape), " in the checkpoint but it is not there");
  const Shape& s = entry->shape;
  const Shape expected(file_shape);
  // A 1×1 convolution and a linear layer are one matrix.
  const bool same = s == expected || (s.rank() == 4 && s[2] * s[3] == 1 && Shape({s[0], s[1]}) == expected);
  CHECK(same, "WEIGHT_SHAPE", "Expected tensor ", name, " to be ", expected, " but the checkpoint has ", s);
  const Shape held = upsamples ? Shape{16, s[1], s[0]} : expected.rank() == 4 ? Shape{s[2] * s[3], s[0], s[1]} : expected;
  return values_[name] = graph.value({name, held, upsamples ? weights_.dtype_of_sums() : weights_.dtype(name), Storage::weight});
}

ValueId Builder::linear(const std::string& path, ValueId x, int64_t out_features, bool bias) {
  const int64_t in_features = shape(x)[-1];
  const WeightEntry* entry = weights_.find(path + ".weight");
  linears.push_back({path, entry && entry->shape.rank() == 4, in_features, out_features});

  const auto adapter = adapters_.find(path);
  ValueId t = kNone, up = kNone;
  if (adapter != adapters_.end()) {
    const int64_t rank = adapter->second.rank;
    const ValueId down = graph.value({path + ".down", Shape{rank, in_features}, DType::f32, Storage::parameter});
    up = graph.value({path + ".up", Shape{out_features, rank}, DType::f32, Storage::parameter});
    t = emit(MatMul{}, {x, down});
  }
  MatMul op;
  std::vector<ValueId> inputs = {x, weight(path + ".weight", {out_features, in_features})};
  if ((op.bias = bias)) inputs.push_back(weight(path + ".bias", {out_features}));
  const ValueId y = emit(std::move(op), std::move(inputs));
  return t == kNone ? y : emit(Add{}, {y, emit(MatMul{{{adapter->second.scale, false}}}, {t, up})});
}

ValueId Builder::conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op) {
  op.bias = true;
  return emit(op,
              {x, weight(path + ".weight", {out_channels, shape(x)[-1], op.kernel, op.kernel}), weight(path + ".bias", {out_channels})});
}

ValueId Builder::group_norm(const std::string& path, ValueId x, int groups, float eps, bool silu) {
  const int64_t channels = shape(x)[-1];
  return emit(GroupNorm{groups, eps, silu}, {x, weight(path + ".weight", {channels}), weight(path + ".bias", {channels})});
}

ValueId Builder::layer_norm(const std::string& path, ValueId x, float eps) {
  const int64_t channels = shape(x)[-1];
  return emit(LayerNorm{eps}, {x, weight(path + ".weight", {channels}), weight(path + ".bias", {channels})});
}

// diffusers:models/resnet.py, ResnetBlock2D
ValueId Builder::resnet(const std::string& path, ValueId x, ValueId embedding, int64_t out_channels, int groups, float eps) {
  ValueId h = conv(path + ".conv1", group_norm(path + ".norm1", x, groups, eps, true), out_channels);
  if (embedding != kNone) h = emit(AddPerSample{}, {h, linear(path + ".time_emb_proj", embedding, out_channels)});
  h = conv(path + ".conv2", group_norm(path + ".norm2", h, groups, eps, true), out_channels);
  const ValueId shortcut = shape(x)[-1] == out_channels ? x : linear(path + ".conv_shortcut", x, out_channels);
  return emit(Add{}, {shortcut, h});
}

// Of the 3×3 pixels around one that was doubled, only 2×2 differ: a convolution of them with sums of the taps (base/weights.h).
ValueId Builder::upsample(const std::string& path, ValueId x) {
  const Shape s = shape(x);
  return emit(ConvTranspose2d{4, 2, 1, 1, 2 * s[1], 2 * s[2], true},
              {x, weight(path + ".weight", {s[3], s[3], 3, 3}, true), weight(path + ".bias", {s[3]})});
}

}  // namespace lorafuse
