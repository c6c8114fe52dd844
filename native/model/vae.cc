// The variational autoencoder: diffusers:models/autoencoders/vae.py, Encoder and Decoder.
#include "model.h"

namespace lorafuse {
namespace {

constexpr float kEps = 1e-6f;

struct Vae {
  Builder& b;
  const VaeConfig& config;

  ValueId resnet(const std::string& path, ValueId x, int64_t channels) {
    return b.resnet(path, x, kNone, channels, config.norm_num_groups, kEps);
  }

  // Two resnets around one attention head over all pixels.
  ValueId middle(const std::string& path, ValueId x) {
    const int64_t channels = b.shape(x)[-1];
    const std::string attention = path + ".attentions.0";
    x = resnet(path + ".resnets.0", x, channels);
    const ValueId n = b.group_norm(attention + ".group_norm", x, config.norm_num_groups, kEps, false);
    const ValueId q = b.linear(attention + ".to_q", n, channels), k = b.linear(attention + ".to_k", n, channels);
    const ValueId v = b.linear(attention + ".to_v", n, channels);
    x = b.emit(Add{}, {x, b.linear(attention + ".to_out.0", b.attention(q, k, v, 1), channels)});
    return resnet(path + ".resnets.1", x, channels);
  }

  ValueId out(const std::string& path, ValueId x, int64_t channels) {
    return b.conv(path + ".conv_out", b.group_norm(path + ".conv_norm_out", x, config.norm_num_groups, kEps, true), channels);
  }
};

}  // namespace

ValueId vae_encoder(Builder& b, const VaeConfig& config, ValueId pixels) {
  Vae net{b, config};
  const size_t levels = config.block_out_channels.size();
  ValueId x = b.conv("encoder.conv_in", pixels, config.block_out_channels[0]);
  for (size_t i = 0; i < levels; i++) {
    const std::string block = "encoder.down_blocks." + std::to_string(i);
    for (int j = 0; j < config.layers_per_block; j++)
      x = net.resnet(block + ".resnets." + std::to_string(j), x, config.block_out_channels[i]);
    // Padded at the bottom and right only, as diffusers' Downsample2D with padding 0.
    if (i + 1 < levels) x = b.conv(block + ".downsamplers.0.conv", x, config.block_out_channels[i], {.stride = 2, .before = 0, .after = 1});
  }
  x = net.out("encoder", net.middle("encoder.mid_block", x), 2 * config.latent_channels);
  return b.linear("quant_conv", x, 2 * config.latent_channels);
}

ValueId vae_decoder(Builder& b, const VaeConfig& config, ValueId latents) {
  Vae net{b, config};
  const size_t levels = config.block_out_channels.size();
  ValueId x = b.linear("post_quant_conv", latents, config.latent_channels);
  x = net.middle("decoder.mid_block", b.conv("decoder.conv_in", x, config.block_out_channels.back()));
  for (size_t i = 0; i < levels; i++) {
    const std::string block = "decoder.up_blocks." + std::to_string(i);
    const int64_t channels = config.block_out_channels[levels - 1 - i];
    for (int j = 0; j <= config.layers_per_block; j++) x = net.resnet(block + ".resnets." + std::to_string(j), x, channels);
    if (i + 1 < levels) x = b.upsample(block + ".upsamplers.0.conv", x);
  }
  return net.out("decoder", x, config.out_channels);
}

}  // namespace lorafuse
