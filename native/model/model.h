// What the networks are: graphs of the UNet, the text encoder and the VAE for given shapes. Sizes come from the checkpoint's configs.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "../base/weights.h"
#include "../graph/graph.h"

namespace lorafuse {

struct UNetConfig {  // diffusers: unet/config.json
  int64_t in_channels = 4, out_channels = 4;
  std::vector<int64_t> block_out_channels;
  std::vector<bool> down_attention, up_attention;
  int layers_per_block = 2;
  std::vector<int64_t> heads;                     // of each down block
  std::vector<int> transformer_layers_per_block;  // of each down block; none: one in each
  int64_t cross_attention_dim = 768;
  int norm_num_groups = 32;
  float norm_eps = 1e-5f;
  bool flip_sin_to_cos = true;
  float freq_shift = 0;
  // addition_embed_type "text_time" (SDXL): a pooled text and sinusoids of time ids are embedded too; 0: not so.
  int64_t addition_time_embed_dim = 0, projection_class_embeddings_input_dim = 0;

  bool has_text_time() const { return addition_time_embed_dim > 0; }
  int transformer_layers(size_t down_block) const {
    return transformer_layers_per_block.empty() ? 1 : transformer_layers_per_block.at(down_block);
  }
};

struct TextEncoderConfig {  // transformers: text_encoder/config.json
  int64_t hidden_size = 768, intermediate_size = 3072, vocab_size = 49408, max_position_embeddings = 77;
  int num_hidden_layers = 12, num_attention_heads = 12;
  float layer_norm_eps = 1e-5f;
  Function hidden_act = Function::quick_gelu;
};

struct VaeConfig {  // diffusers: vae/config.json
  int64_t in_channels = 3, out_channels = 3, latent_channels = 4;
  std::vector<int64_t> block_out_channels;
  int layers_per_block = 2, norm_num_groups = 32;
};

// A LoRA at `path`: y += scale · up(down(x)).  down [rank, in], up [out, rank]
struct Adapter {
  std::string path;
  int64_t rank = 0;
  float scale = 1;
};
using Adapters = std::map<std::string, Adapter>;

// Every layer that could carry an adapter, as linear() meets it.
struct LinearLayer {
  std::string path;
  bool is_conv = false;  // a 1×1 convolution in the checkpoint
  int64_t in_features = 0, out_features = 0;
};

// Builds a graph layer by layer; a path is the module's name in the checkpoint.
class Builder {
 public:
  // dtype: of activations.
  explicit Builder(const Weights& weights, Adapters adapters = {}, DType dtype = DType::f32)
      : weights_(weights), adapters_(std::move(adapters)) {
    graph.dtype = dtype;
  }

  Graph graph;
  std::vector<LinearLayer> linears;

  ValueId input(const std::string& name, Shape shape, DType dtype = DType::f32) {
    return graph.value({name, std::move(shape), dtype, Storage::input});
  }
  ValueId emit(Op op, std::vector<ValueId> inputs) { return graph.emit(std::move(op), std::move(inputs)); }
  const Shape& shape(ValueId v) const { return graph.shape(v); }

  ValueId weight(const std::string& name, const std::vector<int64_t>& file_shape, bool upsamples = false);
  // The one place that knows LoRA. A linear layer or 1×1 convolution: x [.., K] → [.., N].
  ValueId linear(const std::string& path, ValueId x, int64_t out_features, bool bias = true);
  ValueId conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op = {});
  ValueId group_norm(const std::string& path, ValueId x, int groups, float eps, bool silu);
  ValueId layer_norm(const std::string& path, ValueId x, float eps);
  ValueId activation(Function function, ValueId x) { return emit(Activation{function}, {x}); }
  ValueId attention(ValueId q, ValueId k, ValueId v, int64_t heads, bool causal = false) {
    return emit(Attention{static_cast<int>(heads), causal}, {q, k, v});
  }
  // x + convolutions; `embedding` [B, K] = SiLU of the time embedding, or kNone.
  ValueId resnet(const std::string& path, ValueId x, ValueId embedding, int64_t out_channels, int groups, float eps);
  // Twice as high and wide, nearest neighbour, then a 3×3 convolution: one op.
  ValueId upsample(const std::string& path, ValueId x);

 private:
  const Weights& weights_;
  const Adapters adapters_;
  std::map<std::string, ValueId> values_;  // weights and parameters, each once
};

// latents [B, h, w, C], timesteps [B], context [B, T, D] → [B, h, w, C]
// Where the config has text_time, and only there: pooled text [B, P] and time ids [B, n], P + n · addition_time_embed_dim in all.
ValueId unet(Builder& b, const UNetConfig& config, ValueId latents, ValueId timesteps, ValueId context, ValueId pooled = kNone,
             ValueId time_ids = kNone);
// ids [B, T] → hidden states [B, T, D]; the last `skip` layers are left out, the final norm is not.
ValueId text_encoder(Builder& b, const TextEncoderConfig& config, ValueId ids, int skip);
// pixels [B, H, W, 3] → mean ‖ log variance [B, H/8, W/8, 2·4]
ValueId vae_encoder(Builder& b, const VaeConfig& config, ValueId pixels);
// latents [B, h, w, 4] → pixels [B, 8h, 8w, 3]
ValueId vae_decoder(Builder& b, const VaeConfig& config, ValueId latents);

}  // namespace lorafuse
