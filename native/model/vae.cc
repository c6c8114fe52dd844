// The variational autoencoder: diffusers:models/autoencoders/vae.py, Encoder and Decoder.
#include "networks.h"

namespace lorafuse {
namespace {

constexpr float kEps = 1e-6f;

struct Vae {
  Builder& b;
  const std::vector<int64_t> channels = b.config().counts("block_out_channels");
  const int64_t layers = b.config().count("layers_per_block"), groups = b.config().count("norm_num_groups");
  const size_t levels = channels.size();

  ValueId resnet(const std::string& path, ValueId x, int64_t channels) { return b.resnet(path, x, kNone, channels, groups, kEps); }

  // Two resnets around one attention head over all pixels.
  ValueId middle(const std::string& path, ValueId x) {
    const int64_t width = b.shape(x)[-1];
    const std::string attention = path + ".attentions.0";
    x = resnet(path + ".resnets.0", x, width);
    {
      const Builder::Block block(b, attention);
      const ValueId n = b.group_norm(attention + ".group_norm", x, groups, kEps, false);
      x = b.emit(Add{}, {x, b.attention(attention, n, n, 1, true)});
    }
    return resnet(path + ".resnets.1", x, width);
  }

  ValueId out(const std::string& path, ValueId x, int64_t width) {
    return b.conv(path + ".conv_out", b.group_norm(path + ".conv_norm_out", x, groups, kEps, true), width);
  }
};

}  // namespace

ValueId vae_encoder(Builder& b, ValueId pixels) {
  Vae net{b};
  ValueId x = b.conv("encoder.conv_in", pixels, net.channels[0]);
  for (size_t i = 0; i < net.levels; i++) {
    const std::string block = "encoder.down_blocks." + std::to_string(i);
    for (int64_t j = 0; j < net.layers; j++) x = net.resnet(block + ".resnets." + std::to_string(j), x, net.channels[i]);
    // Padded at the bottom and right only, as diffusers' Downsample2D with padding 0.
    if (i + 1 < net.levels) x = b.conv(block + ".downsamplers.0.conv", x, net.channels[i], {.stride = 2, .before = 0, .after = 1});
  }
  const int64_t moments = 2 * b.config().count("latent_channels");
  return b.linear("quant_conv", net.out("encoder", net.middle("encoder.mid_block", x), moments), moments);
}

ValueId vae_decoder(Builder& b, ValueId latents) {
  Vae net{b};
  ValueId x = b.linear("post_quant_conv", latents, b.shape(latents)[-1]);
  x = net.middle("decoder.mid_block", b.conv("decoder.conv_in", x, net.channels.back()));
  for (size_t i = 0; i < net.levels; i++) {
    const std::string block = "decoder.up_blocks." + std::to_string(i);
    const int64_t width = net.channels[net.levels - 1 - i];
    for (int64_t j = 0; j <= net.layers; j++) x = net.resnet(block + ".resnets." + std::to_string(j), x, width);
    if (i + 1 < net.levels) x = b.upsample(block + ".upsamplers.0.conv", x);
  }
  return net.out("decoder", x, b.config().count("out_channels"));
}

}  // namespace lorafuse
