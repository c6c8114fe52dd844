// CLIP's text encoder: transformers:models/clip/modeling_clip.py, CLIPTextTransformer.
#include "networks.h"

namespace lorafuse {

namespace {

// Where a setting is 0 or 1.
bool flag(const Config& settings, const char* name, bool otherwise) {
  if (!settings.has(name)) return otherwise;
  const int64_t x = settings.whole(name);
  CHECK(x <= 1, "ARGUMENT_INVALID", "Expected 0 or 1 for the setting ", name, " but received ", x);
  return x == 1;
}

// x [n, D] · projection; transformers has its weight [P, D], OpenCLIP [D, P] and calls it a parameter.
ValueId project(Builder& b, ValueId x) {
  const int64_t width = b.shape(x)[-1];
  const auto extent = [&](const WeightEntry* entry, int position) {
    return entry && entry->shape.rank() == 2 ? entry->shape[position] : width;
  };
  if (const WeightEntry* entry = b.in_file("text_projection"))
    return b.emit(MatMul{{{1, true}}}, {x, b.weight("text_projection", {width, extent(entry, 1)})});
  const std::string name = "text_projection.weight";
  return b.emit(MatMul{}, {x, b.weight(name, {extent(b.in_file(name), 0), width})});
}

}  // namespace

TextStates text_states(const Config& settings) {
  return {.skip = settings.has("skip") ? settings.whole("skip") : 0,
          .norm = flag(settings, "norm", true),
          .pooled = flag(settings, "pooled", false)};
}

Text clip(Builder& b, ValueId ids, ValueId last, const TextStates& states) {
  const Config& config = b.config();
  const int64_t width = config.count("hidden_size"), heads = config.count("num_attention_heads"),
                layers = config.count("num_hidden_layers");
  const std::string& act = config.word("hidden_act");
  const Function function = act == "gelu" ? Function::gelu : Function::quick_gelu;
  const auto eps = static_cast<float>(config.real("layer_norm_eps"));
  CHECK(states.skip < layers, "ARGUMENT_INVALID", "Expected fewer than ", layers, " skipped layers but received ", states.skip);
  CHECK(width % heads == 0, "CONFIG_INVALID", "Expected heads that divide ", width, " channels of the text encoder but received ", heads);

  ValueId x =
      b.emit(Embedding{}, {ids, b.weight("text_model.embeddings.token_embedding.weight", {config.count("vocab_size"), width}),
                           b.weight("text_model.embeddings.position_embedding.weight", {config.count("max_position_embeddings"), width})});
  const auto encode = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
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
    return x;
  };
  const auto normed = [&](ValueId state) { return b.layer_norm("text_model.final_layer_norm", state, eps); };
  Text text{encode(0, layers - states.skip)};
  if (states.norm) text.context = normed(text.context);
  if (!states.pooled) return text;
  const bool is_last = states.norm && states.skip == 0;
  const ValueId state = is_last ? text.context : normed(encode(layers - states.skip, layers));
  text.pooled = project(b, b.emit(Gather{}, {state, last}));
  return text;
}

Text encoded_text(Builder& b, int64_t batch, const std::vector<TextEncoder>& encoders) {
  Text all;
  for (const auto& [network, states] : encoders) {
    const Network before = b.enter(network);
    const ValueId ids = b.input(network.name + ".ids", {multiple_of(batch), kAny}, DType::i32);
    const ValueId rows = b.input(network.name + ".rows", {batch, kAny}, DType::i32);
    const Text text = clip(b, ids, states.pooled ? b.input(network.name + ".last", {batch}, DType::i32) : kNone, states);
    const ValueId context = b.emit(Gather{}, {text.context, rows});
    const int64_t tokens = b.shape(context)[1], expected = b.shape(all.context == kNone ? context : all.context)[1];
    CHECK(tokens == expected, "SHAPE_MISMATCH", "Expected as many tokens for the input ", network.name, ".rows as for ",
          encoders[0].network.name, ".rows, ", expected, ", but received ", tokens);
    all.context = all.context == kNone ? context : b.emit(Concat{}, {all.context, context});
    if (text.pooled != kNone) all.pooled = text.pooled;
    b.enter(before);
  }
  return all;
}

}  // namespace lorafuse
