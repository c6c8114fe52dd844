// The UNet of Stable Diffusion 1.x: diffusers:models/unets/unet_2d_condition.py, UNet2DConditionModel.
#include "model.h"

namespace lorafuse {
namespace {

struct UNet {
  Builder& b;
  const UNetConfig& config;
  ValueId embedding, context;  // SiLU(time) [B, 4·C0], text [B, T, D]

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
  ValueId transformer(const std::string& path, ValueId x, int64_t heads) {
    const int64_t channels = b.shape(x)[-1];
    const std::string block = path + ".transformer_blocks.0";
    ValueId h = b.linear(path + ".proj_in", b.group_norm(path + ".norm", x, config.norm_num_groups, 1e-6f, false), channels);
    ValueId n = b.layer_norm(block + ".norm1", h, 1e-5f);
    h = b.emit(Add{}, {h, attention(block + ".attn1", n, n, heads)});
    h = b.emit(Add{}, {h, attention(block + ".attn2", b.layer_norm(block + ".norm2", h, 1e-5f), context, heads)});
    ValueId f = b.linear(block + ".ff.net.0.proj", b.layer_norm(block + ".norm3", h, 1e-5f), 8 * channels);
    h = b.emit(Add{}, {h, b.linear(block + ".ff.net.2", b.emit(Geglu{}, {f}), channels)});
    return b.emit(Add{}, {x, b.linear(path + ".proj_out", h, channels)});
  }
};

std::string at(const std::string& path, const char* kind, size_t index) { return path + kind + std::to_string(index); }

}  // namespace

ValueId unet(Builder& b, const UNetConfig& config, ValueId latents, ValueId timesteps, ValueId context) {
  const auto& channels = config.block_out_channels;
  const size_t levels = channels.size();
  const int64_t height = b.shape(latents)[1], width = b.shape(latents)[2], multiple = int64_t{1} << (levels - 1);
  CHECK(height % multiple == 0 && width % multiple == 0, "SHAPE_MISMATCH", "Expected latents with height and width divisible by ", multiple,
        " but received ", b.shape(latents));

  ValueId time = b.emit(Sinusoid{channels[0], config.flip_sin_to_cos, config.freq_shift}, {timesteps});
  time = b.activation(Function::silu, b.linear("time_embedding.linear_1", time, 4 * channels[0]));
  time = b.activation(Function::silu, b.linear("time_embedding.linear_2", time, 4 * channels[0]));
  UNet net{b, config, time, context};

  ValueId x = b.conv("conv_in", latents, channels[0]);
  std::vector<ValueId> skips = {x};
  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("down_blocks.", "", i);
    for (int j = 0; j < config.layers_per_block; j++) {
      x = net.resnet(at(block, ".resnets.", j), x, channels[i]);
      if (config.down_attention[i]) x = net.transformer(at(block, ".attentions.", j), x, config.heads[i]);
      skips.push_back(x);
    }
    if (i + 1 == levels) continue;
    x = b.conv(block + ".downsamplers.0.conv", x, channels[i], {.stride = 2});
    skips.push_back(x);
  }

  x = net.resnet("mid_block.resnets.0", x, channels.back());
  x = net.transformer("mid_block.attentions.0", x, config.heads.back());
  x = net.resnet("mid_block.resnets.1", x, channels.back());

  for (size_t i = 0; i < levels; i++) {
    const std::string block = at("up_blocks.", "", i);
    const size_t level = levels - 1 - i;
    for (int j = 0; j <= config.layers_per_block; j++) {
      x = net.resnet(at(block, ".resnets.", j), b.emit(Concat{}, {x, skips.back()}), channels[level]);
      skips.pop_back();
      if (config.up_attention[i]) x = net.transformer(at(block, ".attentions.", j), x, config.heads[level]);
    }
    if (i + 1 < levels) x = b.upsample(block + ".upsamplers.0.conv", x);
  }
  return b.conv("conv_out", b.group_norm("conv_norm_out", x, config.norm_num_groups, config.norm_eps, true), config.out_channels);
}

}  // namespace lorafuse
