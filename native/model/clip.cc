// CLIP's text encoder: transformers:models/clip/modeling_clip.py, CLIPTextTransformer.
#include "model.h"

namespace lorafuse {

ValueId text_encoder(Builder& b, const TextEncoderConfig& config, ValueId ids, int skip) {
  CHECK(skip >= 0 && skip < config.num_hidden_layers, "INVALID_OPTION", "Expected fewer than ", config.num_hidden_layers,
        " skipped layers but received ", skip);
  const int64_t width = config.hidden_size;
  ValueId x = b.emit(Embedding{}, {ids, b.weight("text_model.embeddings.token_embedding.weight", {config.vocab_size, width}),
                                   b.weight("text_model.embeddings.position_embedding.weight", {config.max_position_embeddings, width})});
  for (int i = 0; i < config.num_hidden_layers - skip; i++) {
    const std::string layer = "text_model.encoder.layers." + std::to_string(i), attention = layer + ".self_attn";
    ValueId n = b.layer_norm(layer + ".layer_norm1", x, config.layer_norm_eps);
    const ValueId q = b.linear(attention + ".q_proj", n, width), k = b.linear(attention + ".k_proj", n, width),
                  v = b.linear(attention + ".v_proj", n, width);
    x = b.emit(Add{}, {x, b.linear(attention + ".out_proj", b.attention(q, k, v, config.num_attention_heads, true), width)});
    n = b.layer_norm(layer + ".layer_norm2", x, config.layer_norm_eps);
    n = b.activation(config.hidden_act, b.linear(layer + ".mlp.fc1", n, config.intermediate_size));
    x = b.emit(Add{}, {x, b.linear(layer + ".mlp.fc2", n, width)});
  }
  return b.layer_norm("text_model.final_layer_norm", x, config.layer_norm_eps);
}

}  // namespace lorafuse
