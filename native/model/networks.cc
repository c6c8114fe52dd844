#include "networks.h"

namespace lorafuse {
namespace {

constexpr NetworkFunction kFunctions[] = {
    {"unet", "predict", [](Builder& b, const Config&) { return unet(b, latents_input(b, b.graph.dtype)); }, true},
    {"clip", "encode",
     [](Builder& b, const Config& settings) {
       return clip(b, b.input("ids", {kAny, kAny}, DType::i32), settings.has("skip") ? settings.whole("skip") : 0);
     },
     true},
    {"vae", "encode",
     [](Builder& b, const Config&) {
       const int64_t factor = int64_t{1} << (b.config().counts("block_out_channels").size() - 1);
       return vae_encoder(b, b.input("pixels", {kAny, multiple_of(factor), multiple_of(factor), b.config().count("in_channels")}));
     },
     false},
    {"vae", "decode",
     [](Builder& b, const Config&) { return vae_decoder(b, b.input("latents", {kAny, kAny, kAny, b.config().count("latent_channels")})); },
     false},
};

}  // namespace

const NetworkFunction& find_function(const std::string& architecture, const std::string& name) {
  for (const NetworkFunction& f : kFunctions)
    if (f.architecture == architecture && f.name == name) return f;
  throw Error("ARGUMENT_INVALID", text("Expected a function of a ", architecture, " but received ", name));
}

const NetworkFunction* adaptable_function(const std::string& architecture) {
  bool known = false;
  for (const NetworkFunction& f : kFunctions) {
    if (f.architecture != architecture) continue;
    if (f.has_layers) return &f;
    known = true;
  }
  CHECK(known, "ARGUMENT_INVALID", "Expected unet, clip or vae for the architecture of a network but received ", architecture);
  return nullptr;
}

}  // namespace lorafuse
