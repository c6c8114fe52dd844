// Which tensors a checkpoint has.
//   diffusers:models/unets/unet_2d_condition.py, diffusers:models/autoencoders/vae.py, transformers:models/clip/modeling_clip.py
#include "checkpoint.h"

namespace lorafuse::test {
namespace {

std::string at(const std::string& path, int64_t index) { return path + "." + std::to_string(index); }

void resnet(Layout& l, const std::string& path, int64_t in, int64_t out, int64_t time) {
  l.norm(path + ".norm1", in);
  l.layer(path + ".conv1", {out, in, 3, 3});
  if (time) l.layer(path + ".time_emb_proj", {out, time});
  l.norm(path + ".norm2", out);
  l.layer(path + ".conv2", {out, out, 3, 3});
  if (in != out) l.layer(path + ".conv_shortcut", {out, in, 1, 1});
}

void attention(Layout& l, const std::string& path, int64_t channels, int64_t context) {
  l.layer(path + ".to_q", {channels, channels}, false);
  l.layer(path + ".to_k", {channels, context}, false);
  l.layer(path + ".to_v", {channels, context}, false);
  l.layer(path + ".to_out.0", {channels, channels});
}

void transformer(Layout& l, const std::string& path, const Config& config, int64_t level, int64_t depth) {
  const int64_t channels = config.counts("block_out_channels")[level];
  // SDXL's config has use_linear_projection.
  const Shape projection = has_text_time(config) ? Shape{channels, channels} : Shape{channels, channels, 1, 1};
  l.norm(path + ".norm", channels);
  l.layer(path + ".proj_in", projection);
  for (int i = 0; i < depth; i++) {
    const std::string block = at(path + ".transformer_blocks", i);
    attention(l, block + ".attn1", channels, channels);
    attention(l, block + ".attn2", channels, config.count("cross_attention_dim"));
    l.layer(block + ".ff.net.0.proj", {8 * channels, channels});
    l.layer(block + ".ff.net.2", {channels, 4 * channels});
    for (int j = 1; j <= 3; j++) l.norm(block + ".norm" + std::to_string(j), channels);
  }
  l.layer(path + ".proj_out", projection);
}

void vae_middle(Layout& l, const std::string& path, int64_t channels) {
  const std::string attention = path + ".attentions.0";
  resnet(l, path + ".resnets.0", channels, channels, 0);
  l.norm(attention + ".group_norm", channels);
  for (const char* name : {".to_q", ".to_k", ".to_v", ".to_out.0"}) l.layer(attention + name, {channels, channels});
  resnet(l, path + ".resnets.1", channels, channels, 0);
}

}  // namespace

Layout unet_layout(const Config& config, DType dtype) {
  Layout l{{}, 0, dtype};
  const auto channels = config.counts("block_out_channels");
  const int64_t levels = static_cast<int64_t>(channels.size()), time = 4 * channels[0];
  const int64_t each = config.count("layers_per_block");
  const auto depths = config.counts("transformer_layers_per_block");
  const bool irregular = config.has("reverse_transformer_layers_per_block");
  const auto up_depths = config.counts(irregular ? "reverse_transformer_layers_per_block" : "transformer_layers_per_block");
  const std::string middle = config.has("mid_block_type") ? config.word("mid_block_type") : "UNetMidBlock2DCrossAttn";
  l.layer("conv_in", {channels[0], config.count("in_channels"), 3, 3});
  l.layer("time_embedding.linear_1", {time, channels[0]});
  l.layer("time_embedding.linear_2", {time, time});
  if (has_text_time(config)) {
    l.layer("add_embedding.linear_1", {time, config.count("projection_class_embeddings_input_dim")});
    l.layer("add_embedding.linear_2", {time, time});
  }
  for (int64_t i = 0, in = channels[0]; i < levels; in = channels[i++]) {
    const std::string block = at("down_blocks", i);
    for (int j = 0; j < config.count("layers_per_block"); j++) {
      resnet(l, at(block + ".resnets", j), j ? channels[i] : in, channels[i], time);
      if (config.words("down_block_types")[i] == "CrossAttnDownBlock2D")
        transformer(l, at(block + ".attentions", j), config, i, irregular ? depths[i * each + j] : depths[i]);
    }
    if (i + 1 < levels) l.layer(block + ".downsamplers.0.conv", {channels[i], channels[i], 3, 3});
  }
  if (middle != "None") resnet(l, "mid_block.resnets.0", channels.back(), channels.back(), time);
  if (middle == "UNetMidBlock2DCrossAttn") {
    transformer(l, "mid_block.attentions.0", config, levels - 1, depths[irregular ? (levels - 1) * each : levels - 1]);
    resnet(l, "mid_block.resnets.1", channels.back(), channels.back(), time);
  }
  for (int64_t i = 0; i < levels; i++) {
    const std::string block = at("up_blocks", i);
    const int64_t level = levels - 1 - i, out = channels[level];
    const int64_t below = channels[std::min(levels - 1, level + 1)], above = channels[std::max<int64_t>(0, level - 1)];
    for (int j = 0; j <= config.count("layers_per_block"); j++) {
      const int64_t skip = j == config.count("layers_per_block") ? above : out;
      resnet(l, at(block + ".resnets", j), (j ? out : below) + skip, out, time);
      if (config.words("up_block_types")[i] == "CrossAttnUpBlock2D")
        transformer(l, at(block + ".attentions", j), config, level, irregular ? up_depths[i * (each + 1) + j] : up_depths[level]);
    }
    if (i + 1 < levels) l.layer(block + ".upsamplers.0.conv", {out, out, 3, 3});
  }
  l.norm("conv_norm_out", channels[0]);
  l.layer("conv_out", {config.count("out_channels"), channels[0], 3, 3});
  return l;
}

Layout text_encoder_layout(const Config& config, DType dtype) {
  Layout l{{}, 0, dtype};
  const int64_t width = config.count("hidden_size");
  l.add("text_model.embeddings.token_embedding.weight", {config.count("vocab_size"), width});
  l.add("text_model.embeddings.position_embedding.weight", {config.count("max_position_embeddings"), width});
  for (int i = 0; i < config.count("num_hidden_layers"); i++) {
    const std::string layer = at("text_model.encoder.layers", i);
    for (const char* name : {"q_proj", "k_proj", "v_proj", "out_proj"}) l.layer(layer + ".self_attn." + name, {width, width});
    l.norm(layer + ".layer_norm1", width);
    l.layer(layer + ".mlp.fc1", {config.count("intermediate_size"), width});
    l.layer(layer + ".mlp.fc2", {width, config.count("intermediate_size")});
    l.norm(layer + ".layer_norm2", width);
  }
  l.norm("text_model.final_layer_norm", width);
  if (config.has("projection_dim")) l.add("text_projection.weight", {config.count("projection_dim"), width});
  return l;
}

Layout vae_layout(const Config& config, DType dtype) {
  Layout l{{}, 0, dtype};
  const auto channels = config.counts("block_out_channels");
  const int64_t levels = static_cast<int64_t>(channels.size()), latents = config.count("latent_channels");
  l.layer("encoder.conv_in", {channels[0], config.count("in_channels"), 3, 3});
  for (int64_t i = 0, in = channels[0]; i < levels; in = channels[i++]) {
    const std::string block = at("encoder.down_blocks", i);
    for (int j = 0; j < config.count("layers_per_block"); j++) resnet(l, at(block + ".resnets", j), j ? channels[i] : in, channels[i], 0);
    if (i + 1 < levels) l.layer(block + ".downsamplers.0.conv", {channels[i], channels[i], 3, 3});
  }
  vae_middle(l, "encoder.mid_block", channels.back());
  l.norm("encoder.conv_norm_out", channels.back());
  l.layer("encoder.conv_out", {2 * latents, channels.back(), 3, 3});
  l.layer("quant_conv", {2 * latents, 2 * latents, 1, 1});
  l.layer("post_quant_conv", {latents, latents, 1, 1});
  l.layer("decoder.conv_in", {channels.back(), latents, 3, 3});
  vae_middle(l, "decoder.mid_block", channels.back());
  for (int64_t i = 0, in = channels.back(); i < levels; i++) {
    const std::string block = at("decoder.up_blocks", i);
    const int64_t out = channels[levels - 1 - i];
    for (int j = 0; j <= config.count("layers_per_block"); j++) resnet(l, at(block + ".resnets", j), j ? out : in, out, 0);
    if (i + 1 < levels) l.layer(block + ".upsamplers.0.conv", {out, out, 3, 3});
    in = out;
  }
  l.norm("decoder.conv_norm_out", channels[0]);
  l.layer("decoder.conv_out", {config.count("out_channels"), channels[0], 3, 3});
  return l;
}

}  // namespace lorafuse::test
