#include "networks.h"

#include <algorithm>

namespace lorafuse {
namespace {

using Values = std::vector<ValueId>;

constexpr NetworkFunction kFunctions[] = {
    {"unet", "predict",
     [](Builder& b, const Config&) {
       const ValueId latents = latents_input(b, "latents", b.graph.dtype);
       return Values{unet(b, latents, text_inputs(b, b.shape(latents)[0]))};
     },
     true},
    {"clip", "encode",
     [](Builder& b, const Config& settings) {
       const TextStates states = text_states(settings);
       const ValueId ids = b.input("ids", {kAny, kAny}, DType::i32);
       const Text text = clip(b, ids, states.pooled ? b.input("last", {kAny}, DType::i32) : kNone, states);
       return states.pooled ? Values{text.context, text.pooled} : Values{text.context};
     },
     true},
    {"vae", "encode",
     [](Builder& b, const Config&) {
       const int64_t factor = int64_t{1} << (b.config().counts("block_out_channels").size() - 1);
       return Values{vae_encoder(b, b.input("pixels", {kAny, multiple_of(factor), multiple_of(factor), b.config().count("in_channels")}))};
     },
     false},
    {"vae", "decode",
     [](Builder& b, const Config&) {
       return Values{vae_decoder(b, b.input("latents", {kAny, kAny, kAny, b.config().count("latent_channels")}))};
     },
     false},
};

}  // namespace

const NetworkFunction& find_function(const std::string& architecture, const std::string& name) {
  const auto* found = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [&](const NetworkFunction& f) { return f.architecture == architecture && f.name == name; });
  CHECK(found != std::end(kFunctions), "ARGUMENT_INVALID", "Expected a function of a ", architecture, " but received ", name);
  return *found;
}

const NetworkFunction* adaptable_function(const std::string& architecture) {
  const bool known =
      std::any_of(std::begin(kFunctions), std::end(kFunctions), [&](const auto& f) { return f.architecture == architecture; });
  CHECK(known, "ARGUMENT_INVALID", "Expected unet, clip or vae for the architecture of a network but received ", architecture);
  const auto* found = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [&](const NetworkFunction& f) { return f.architecture == architecture && f.has_layers; });
  return found == std::end(kFunctions) ? nullptr : found;
}

}  // namespace lorafuse
