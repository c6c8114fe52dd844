// The UNet of Stable Diffusion 1.x, 2.x and XL: diffusers:models/unets/unet_2d_condition.py, UNet2DConditionModel.
#include "networks.h"

namespace lorafuse {
namespace {

constexpr int64_t kTimeIds = 6;  // SDXL's size conditioning: original height, width, crop top, left, target height, width

std::string at(const std::string& path, const char* kind, size_t index) { return path + kind + std::to_string(index); }

bool has_text_time(const Config& config) { return config.has("addition_time_embed_dim"); }

// How many layers each transformer has, block after block, `each` in a block: a config has a number for each block, or for each
// transformer.
std::vector<int64_t> depths(const Config& config, const std::string& name, size_t blocks, size_t each) {
  const std::vector<int64_t> counts = config.counts(name);
  if (counts.size() != blocks) config.expect_length(name, counts.size(), blocks * each);
  if (counts.size() == blocks * each) return counts;
  std::vector<int64_t> all;
  for (int64_t count : counts) all.insert(all.end(), each, count);
  return all;
}

// Of the way up: the same as of the way down, unless a list of its own says otherwise (SSD-1B, Vega).
std::vector<int64_t> up_depths(const Config& config, const std::string& name, size_t blocks, size_t each) {
  const std::string own = "reverse_" + name;
  if (config.has(own)) return depths(config, own, blocks, each);
  const std::vector<int64_t> counts = config.counts(name);
  config.expect_length(name, counts.size(), blocks);
  std::vector<int64_t> all;
  for (size_t i = blocks; i-- > 0;) all.insert(all.end(), each, counts[i]);
  return all;
}

struct UNet {
  Builder& b;
  ValueId embedding, context;  // SiLU(time + text_time) [B, 4·C0], text [B, T, D]
  const Config& config = b.config();
  const int64_t groups = config.count("norm_num_groups"), layers = config.count("layers_per_block");
  const float eps = static_cast<float>(config.real("norm_eps"));
  const std::vector<int64_t> channels = config.counts("block_out_channels"), heads = config.counts("num_attention_heads");
  const std::vector<std::string> down_types = config.words("down_block_types"), up_types = config.words("up_block_types");

  ValueId resnet(const std::string& path, ValueId x, int64_t width) { return b.resnet(path, x, embedding, width, groups, eps); }

  // Two resnets around a transformer, or one alone (UNetMidBlock2D), or nothing (None).
  ValueId middle(ValueId x, int64_t depth) {
    const std::string kCross = "UNetMidBlock2DCrossAttn", type = config.has("mid_block_type") ? config.word("mid_block_type") : kCross;
    const bool crosses = type == kCross;
    CHECK(crosses || type == "UNetMidBlock2D" || type == "None", "CONFIG_INVALID", "Expected ", kCross,
          ", UNetMidBlock2D or None for mid_block_type of the UNet but received ", type);
    if (type == "None") return x;
    x = resnet("mid_block.resnets.0", x, channels.back());
    if (!crosses) return x;
    x = transformer("mid_block.attentions.0", x, channels.size() - 1, depth);
    return resnet("mid_block.resnets.1", x, channels.back());
  }

  // diffusers:models/transformers/transformer_2d.py; x [B, H, W, C] is at once an image and H·W tokens
  ValueId transformer(const std::string& path, ValueId x, size_t level, int64_t depth) {
    const Builder::Block block(b, path);
    const int64_t width = b.shape(x)[-1];
    CHECK(width % heads[level] == 0, "CONFIG_INVALID", "Expected heads that divide ", width, " channels of the UNet but received ",
          heads[level]);
    ValueId h = b.linear(path + ".proj_in", b.group_norm(path + ".norm", x, groups, 1e-6f, false), width);
    for (int64_t i = 0; i < depth; i++) {
      const std::string layer = at(path, ".transformer_blocks.", i);
      const Builder::Block inner(b, layer);
      const ValueId n = b.layer_norm(layer + ".norm1", h, 1e-5f);
      h = b.emit(Add{}, {h, b.attention(layer + ".attn1", n, n, heads[level], false)});
      h = b.emit(Add{}, {h, b.attention(layer + ".attn2", b.layer_norm(layer + ".norm2", h, 1e-5f), context, heads[level], false)});
      const Builder::Scope feed_forward(b, layer + ".ff", &Graph::part);
      const ValueId f = b.linear(layer + ".ff.net.0.proj", b.layer_norm(layer + ".norm3", h, 1e-5f), 8 * width);
      h = b.emit(Add{}, {h, b.linear(layer + ".ff.net.2", b.emit(Geglu{}, {f}), width)});
    }
    return b.emit(Add{}, {x, b.linear(path + ".proj_out", h, width)});
  }
};

// diffusers:models/embeddings.py, TimestepEmbedding
ValueId embedding(Builder& b, const std::string& path, ValueId x, int64_t features) {
  return b.linear(path + ".linear_2", b.activation(Function::silu, b.linear(path + ".linear_1", x, features)), features);
}

// SiLU of the embedded time; SDXL adds the embedding of pooled text ‖ sinusoids of the time ids to it.
ValueId condition(Builder& b, int64_t batch, ValueId pooled) {
  const Config& config = b.config();
  const int64_t width = config.counts("block_out_channels")[0];
  Sinusoid sinusoid{width, config.flag("flip_sin_to_cos"), static_cast<float>(config.real("freq_shift"))};
  ValueId sum = embedding(b, "time_embedding", b.emit(sinusoid, {b.input("timesteps", {batch})}), 4 * width);
  if (has_text_time(config)) {
    sinusoid.dim = config.count("addition_time_embed_dim");
    const ValueId text_time = b.emit(Concat{}, {pooled, b.emit(sinusoid, {b.input("time_ids", {batch, kTimeIds})})});
    sum = b.emit(Add{}, {sum, embedding(b, "add_embedding", text_time, 4 * width)});
  }
  return b.activation(Function::silu, sum);
}

}  // namespace

ValueId latents_input(Builder& b, const std::string& name, DType dtype) {
  const int64_t multiple = int64_t{1} << (b.config().counts("block_out_channels").size() - 1);  // each level halves them
  return b.input(name, {kAny, multiple_of(multiple), multiple_of(multiple), b.config().count("in_channels")}, dtype);
}

Text text_inputs(Builder& b, int64_t batch) {
  const Config& config = b.config();
  Text text{b.activations("context", {batch, kAny, config.count("cross_attention_dim")})};
  if (has_text_time(config)) {
    const int64_t sinusoids = kTimeIds * config.count("addition_time_embed_dim");
    const int64_t width = config.count("projection_class_embeddings_input_dim") - sinusoids;
    CHECK(width > 0, "CONFIG_INVALID", "Expected more than ", sinusoids,
          " for projection_class_embeddings_input_dim of the UNet, which time ids take, but received ", sinusoids + width);
    text.pooled = b.activations("pooled", {batch, width});
  }
  return text;
}

ValueId unet(Builder& b, ValueId latents, const Text& text) {
  const int64_t expected = b.config().count("cross_attention_dim"), received = b.shape(text.context)[-1];
  CHECK(received == expected, "CONFIG_INVALID", "Expected text of ", received,
        " channels for cross_attention_dim of the UNet but received ", expected);
  CHECK((text.pooled != kNone) == has_text_time(b.config()), "CONFIG_INVALID", "Expected ",
        text.pooled == kNone ? "no addition_time_embed_dim of the UNet, as its text is not pooled,"
                             : "addition_time_embed_dim of the UNet, as its text is pooled,",
        " but received ", text.pooled == kNone ? "one" : "none");
  UNet net{b, condition(b, b.shape(latents)[0], text.pooled), text.context};
  const auto& channels = net.channels;
  const size_t levels = channels.size();
  const auto expect_length = [&](const char* name, size_t length) { b.config().expect_length(name, length, levels); };
  expect_length("num_attention_heads", net.heads.size());
  expect_length("down_block_types", net.down_types.size());
  expect_length("up_block_types", net.up_types.size());
  const std::string depth_name = "transformer_layers_per_block";
  const size_t each = static_cast<size_t>(net.layers);
  const std::vector<int64_t> down = depths(b.config(), depth_name, levels, each), up = up_depths(b.config(), depth_name, levels, each + 1);

  ValueId x = b.frozen_conv("conv_in", latents, channels[0]);
  std::vector<ValueId> skips = {x};
  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("down_blocks.", "", i);
    for (int64_t j = 0; j < net.layers; j++) {
      x = net.resnet(at(block, ".resnets.", j), x, channels[i]);
      if (net.down_types[i] == "CrossAttnDownBlock2D") x = net.transformer(at(block, ".attentions.", j), x, i, down[i * each + j]);
      skips.push_back(x);
    }
    if (i + 1 == levels) continue;
    x = b.conv(block + ".downsamplers.0.conv", x, channels[i], {.stride = 2});
    skips.push_back(x);
  }

  x = net.middle(x, down[(levels - 1) * each]);

  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("up_blocks.", "", i);
    const size_t level = levels - 1 - i;
    for (int64_t j = 0; j <= net.layers; j++) {
      {
        const std::string resnet = at(block, ".resnets.", j);
        const Builder::Block with_skip(b, resnet);
        x = net.resnet(resnet, b.emit(Concat{}, {x, skips.back()}), channels[level]);
      }
      skips.pop_back();
      if (net.up_types[i] == "CrossAttnUpBlock2D") x = net.transformer(at(block, ".attentions.", j), x, level, up[i * (each + 1) + j]);
    }
    if (i + 1 < levels) x = b.upsample(block + ".upsamplers.0.conv", x);
  }
  return b.frozen_conv("conv_out", b.group_norm("conv_norm_out", x, net.groups, net.eps, true), b.config().count("out_channels"));
}

}  // namespace lorafuse
