// What the networks compute. Each is a page of its own (unet.cc, clip.cc, vae.cc) that declares its inputs and reads its config.
#pragma once
#include <string_view>

#include "builder.h"

namespace lorafuse {

// The text as a UNet takes it: hidden states [B, T, D] and, where its config has text_time (SDXL), the pooled text [B, P].
struct Text { ValueId context = kNone, pooled = kNone; };
// Declares the inputs `context` and `pooled`.
Text text_inputs(Builder& b, int64_t batch);

// What is taken of a text encoder.
struct TextStates {
  int64_t skip = 0;     // how many last layers the hidden states leave out
  bool norm = true;     // whether they end in the final norm
  bool pooled = false;  // whether the text is pooled, too, which takes all layers
};
TextStates text_states(const Config& settings);  // of {skip, norm, pooled}, numbers
struct TextEncoder {
  Network network;
  TextStates states;
};
// The text that several encoders make, their hidden states side by side. Declares for each, with its network's name before it, `.ids`
// [B·chunks, length], `.rows` [B, T], which of the B·chunks·length rows are a sample's text, and `.last` [B] where it pools, as clip()
// does.
Text encoded_text(Builder& b, int64_t batch, const std::vector<TextEncoder>& encoders);

// latents [B, h, w, C] → [B, h, w, C]; declares timesteps [B] and, where the config has text_time, time_ids [B, 6].
ValueId unet(Builder& b, ValueId latents, const Text& text);
// Declares the UNet's latents as an input of this name and type.
ValueId latents_input(Builder& b, const std::string& name, DType dtype);

// ids [B, T] → hidden states [B, T, D] and, with `last` [n], rows of the B·T, those rows of the last, normed state times the text
// projection [n, P].
Text clip(Builder& b, ValueId ids, ValueId last, const TextStates& states);
// pixels [B, H, W, 3] → mean ‖ log variance [B, H/8, W/8, 2·4]
ValueId vae_encoder(Builder& b, ValueId pixels);
// latents [B, h, w, 4] → pixels [B, 8h, 8w, 3]
ValueId vae_decoder(Builder& b, ValueId latents);

// What a session runs by name: a graph of one network. Its results are the values returned.
struct NetworkFunction {
  std::string_view architecture, name;
  std::vector<ValueId> (*build)(Builder& b, const Config& settings);
  bool has_layers;  // whether its graph holds the layers that can carry adapters
};

// Throws ARGUMENT_INVALID where there is none.
const NetworkFunction& find_function(const std::string& architecture, const std::string& name);
// The function of an architecture whose graph has the layers that can carry adapters; nullptr where none can.
const NetworkFunction* adaptable_function(const std::string& architecture);

}  // namespace lorafuse
