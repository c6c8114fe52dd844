// CLIP's text encoder: transformers:models/clip/modeling_clip.py, CLIPTextTransformer.
#include "networks.h"

namespace lorafuse {

ValueId clip(Builder& b, ValueId ids, int64_t skip) {
  const Config& config = b.config();
  const int64_t width = config.count("hidden_size"), heads = config.count("num_attention_heads"),
                layers = config.count("num_hidden_layers");
  const std::string& act = config.word("hidden_act");
  const Function function = act == "gelu" ? Function::gelu : Function::quick_gelu;
  const auto eps = static_cast<float>(config.real("layer_norm_eps"));
  CHECK(skip < layers, "ARGUMENT_INVALID", "Expected fewer than ", layers, " skipped layers but received ", skip);
  CHECK(width % heads == 0, "CONFIG_INVALID", "Expected heads that divide ", width, " channels of the text encoder but received ", heads);

  ValueId x =
      b.emit(Embedding{}, {ids, b.weight("text_model.embeddings.token_embedding.weight", {config.count("vocab_size"), width}),
                           b.weight("text_model.embeddings.position_embedding.weight", {config.count("max_position_embeddings"), width})});
  for (int64_t i = 0; i < layers - skip; i++) {
    const std::string layer = "text_model.encoder.layers." + std::to_string(i), attention = layer + ".self_attn";
    const Builder::Block block(b, layer);
    ValueId n = b.layer_norm(layer + ".layer_norm1", x, eps);
    const ValueId q = b.linear(attention + ".q_proj", n, width), k = b.linear(attention + ".k_proj", n, width);
    const ValueId v = b.linear(attention + ".v_proj", n, width);
    x = b.emit(Add{}, {x, b.linear(attention + ".out_proj", b.emit(Attention{to_int(heads, "heads"), true}, {q, k, v}), width)});
    n = b.layer_norm(layer + ".layer_norm2", x, eps);
    n = b.activation(function, b.linear(layer + ".mlp.fc1", n, config.count("intermediate_size")));
    x = b.emit(Add{}, {x, b.linear(layer + ".mlp.fc2", n, width)});
  }
  return b.layer_norm("text_model.final_layer_norm", x, eps);
}

}  // namespace lorafuse
