// The UNet of Stable Diffusion 1.x and XL: diffusers:models/unets/unet_2d_condition.py, UNet2DConditionModel.
#include "model.h"

namespace lorafuse {
namespace {

std::string at(const std::string& path, const char* kind, size_t index) { return path + kind + std::to_string(index); }

struct UNet {
  Builder& b;
  const UNetConfig& config;
  ValueId embedding, context;  // SiLU(time + text_time) [B, 4·C0], text [B, T, D]

  ValueId resnet(const std::string& path, ValueId x, int64_t channels) {
    return b.resnet(path, x, embedding, channels, config.norm_num_groups, config.norm_eps);
  }

  // q from x, k and v from `source`: x itself or the text.
  ValueId attention(const std::string& path, ValueId x, ValueId source, int64_t heads) {
    const int64_t channels = b.shape(x)[-1];
    const ValueId q = b.linear(path + ".to_q", x, channels, false);
    const ValueId k = b.linear(path + ".to_k", source, channels, false);
    const ValueId v = b.linear(path + ".to_v", source, channels, false);
    return b.linear(path + ".to_out.0", b.attention(q, k, v, heads), channels);
  }

  // diffusers:models/transformers/transformer_2d.py; x [B, H, W, C] is at once an image and H·W tokens
  ValueId transformer(const std::string& path, ValueId x, size_t level) {
    const int64_t channels = b.shape(x)[-1], heads = config.heads[level];
    ValueId h = b.linear(path + ".proj_in", b.group_norm(path + ".norm", x, config.norm_num_groups, 1e-6f, false), channels);
    for (int i = 0; i < config.transformer_layers(level); i++) {
      const std::string block = at(path, ".transformer_blocks.", i);
      const ValueId n = b.layer_norm(block + ".norm1", h, 1e-5f);
      h = b.emit(Add{}, {h, attention(block + ".attn1", n, n, heads)});
      h = b.emit(Add{}, {h, attention(block + ".attn2", b.layer_norm(block + ".norm2", h, 1e-5f), context, heads)});
      const ValueId f = b.linear(block + ".ff.net.0.proj", b.layer_norm(block + ".norm3", h, 1e-5f), 8 * channels);
      h = b.emit(Add{}, {h, b.linear(block + ".ff.net.2", b.emit(Geglu{}, {f}), channels)});
    }
    return b.emit(Add{}, {x, b.linear(path + ".proj_out", h, channels)});
  }
};

// diffusers:models/embeddings.py, TimestepEmbedding
ValueId embedding(Builder& b, const std::string& path, ValueId x, int64_t features) {
  return b.linear(path + ".linear_2", b.activation(Function::silu, b.linear(path + ".linear_1", x, features)), features);
}

// SiLU of the embedded time; to it, in SDXL, the embedding of pooled text ‖ sinusoids of the time ids is added.
ValueId condition(Builder& b, const UNetConfig& config, ValueId timesteps, ValueId pooled, ValueId time_ids) {
  const int64_t features = 4 * config.block_out_channels[0];
  const Sinusoid of_time{config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift};
  ValueId sum = embedding(b, "time_embedding", b.emit(of_time, {timesteps}), features);
  if (config.has_text_time()) {
    const Sinusoid of_ids{config.addition_time_embed_dim, config.flip_sin_to_cos, config.freq_shift};
    const ValueId text_time = b.emit(Concat{}, {pooled, b.emit(of_ids, {time_ids})});
    CHECK(b.shape(text_time)[-1] == config.projection_class_embeddings_input_dim, "SHAPE_MISMATCH", "Expected pooled text and time ids of ",
          config.projection_class_embeddings_input_dim, " features but received ", b.shape(pooled), " and ", b.shape(time_ids));
    sum = b.emit(Add{}, {sum, embedding(b, "add_embedding", text_time, features)});
  }
  return b.activation(Function::silu, sum);
}

}  // namespace

ValueId unet(Builder& b, const UNetConfig& config, ValueId latents, ValueId timesteps, ValueId context, ValueId pooled, ValueId time_ids) {
  const auto& channels = config.block_out_channels;
  const size_t levels = channels.size();
  const int64_t height = b.shape(latents)[1], width = b.shape(latents)[2], multiple = int64_t{1} << (levels - 1);
  CHECK(height % multiple == 0 && width % multiple == 0, "SHAPE_MISMATCH", "Expected latents with height and width divisible by ", multiple,
        " but received ", b.shape(latents));

  const bool given = pooled != kNone && time_ids != kNone, absent = pooled == kNone && time_ids == kNone;
  CHECK(config.has_text_time() ? given : absent, "INVALID_ARGUMENT", "Expected ", config.has_text_time() ? "" : "no ",
        "pooled text and time ids, as the UNet's config says");
  UNet net{b, config, condition(b, config, timesteps, pooled, time_ids), context};

  ValueId x = b.conv("conv_in", latents, channels[0]);
  std::vector<ValueId> skips = {x};
  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("down_blocks.", "", i);
    for (int j = 0; j < config.layers_per_block; j++) {
      x = net.resnet(at(block, ".resnets.", j), x, channels[i]);
      if (config.down_attention[i]) x = net.transformer(at(block, ".attentions.", j), x, i);
      skips.push_back(x);
    }
    if (i + 1 == levels) continue;
    x = b.conv(block + ".downsamplers.0.conv", x, channels[i], {.stride = 2});
    skips.push_back(x);
  }

  x = net.resnet("mid_block.resnets.0", x, channels.back());
  x = net.transformer("mid_block.attentions.0", x, levels - 1);
  x = net.resnet("mid_block.resnets.1", x, channels.back());

  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("up_blocks.", "", i);
    const size_t level = levels - 1 - i;
    for (int j = 0; j <= config.layers_per_block; j++) {
      x = net.resnet(at(block, ".resnets.", j), b.emit(Concat{}, {x, skips.back()}), channels[level]);
      skips.pop_back();
      if (config.up_attention[i]) x = net.transformer(at(block, ".attentions.", j), x, level);
    }
    if (i + 1 < levels) x = b.upsample(block + ".upsamplers.0.conv", x);
  }
  return b.conv("conv_out", b.group_norm("conv_norm_out", x, config.norm_num_groups, config.norm_eps, true), config.out_channels);
}

}  // namespace lorafuse
