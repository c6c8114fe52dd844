#include "checkpoint.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "graphs.h"

namespace lorafuse::test {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "lorafuse-native-XXXXXX").string();
  if (!mkdtemp(pattern.data())) throw Failure("no temporary folder could be made at " + pattern);
  path_ = pattern;
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::string& path, const std::vector<unsigned char>& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!out) throw Failure("could not write " + path);
}

void Layout::add(const std::string& name, Shape shape) {
  entries.push_back({name, dtype, std::move(shape), bytes});
  bytes += entries.back().shape.elements() * size_of(dtype);
}
void Layout::layer(const std::string& path, Shape weight, bool bias) {
  const int64_t outputs = weight[0];
  add(path + ".weight", std::move(weight));
  if (bias) add(path + ".bias", {outputs});
}
int64_t Layout::parameters() const {
  int64_t sum = 0;
  for (const WeightEntry& e : entries) sum += e.shape.elements();
  return sum;
}

WeightFile write_random(const std::string& path, const Layout& layout, uint64_t seed) {
  Random random(seed);
  std::vector<unsigned char> bytes;
  for (const WeightEntry& e : layout.entries) {
    const bool vector = e.shape.rank() == 1, is_norm = e.name.find("norm") != std::string::npos && e.name.ends_with(".weight");
    const float scale = vector ? 0.1f : 1 / std::sqrt(static_cast<float>(e.shape.elements() / e.shape[0]));
    const auto data = stored(e.dtype, random.normals(e.shape.elements(), scale, vector && is_norm ? 1 : 0));
    bytes.insert(bytes.end(), data.begin(), data.end());
  }
  write_file(path, bytes);
  return {path, layout.entries};
}

WeightFile write_sparse(const std::string& path, const Layout& layout) {
  write_file(path, {0});
  if (truncate(path.c_str(), static_cast<off_t>(layout.bytes)) != 0) throw Failure("could not make " + path);
  return {path, layout.entries};
}

namespace {

using Numbers = std::vector<double>;
using Words = std::vector<std::string>;

// SD1.5's, but for `other`.
Config unet_config(const Config::Values& other) {
  const std::string cross = "CrossAttnDownBlock2D", up = "CrossAttnUpBlock2D";
  Config::Values values = {{"in_channels", 4.0},
                           {"out_channels", 4.0},
                           {"block_out_channels", Numbers{320, 640, 1280, 1280}},
                           {"down_block_types", Words{cross, cross, cross, "DownBlock2D"}},
                           {"up_block_types", Words{"UpBlock2D", up, up, up}},
                           {"layers_per_block", 2.0},
                           {"num_attention_heads", Numbers{8, 8, 8, 8}},
                           {"transformer_layers_per_block", Numbers{1, 1, 1, 1}},
                           {"cross_attention_dim", 768.0},
                           {"norm_num_groups", 32.0},
                           {"norm_eps", 1e-5},
                           {"flip_sin_to_cos", true},
                           {"freq_shift", 0.0}};
  for (const auto& [name, value] : other) values[name] = value;
  return Config("unet", std::move(values));
}

Config text_encoder_config(double width, double inner, double vocabulary, double positions, double layers, double heads,
                           const Config::Values& other) {
  Config::Values values = {
      {"hidden_size", width},        {"intermediate_size", inner},   {"vocab_size", vocabulary}, {"max_position_embeddings", positions},
      {"num_hidden_layers", layers}, {"num_attention_heads", heads}, {"layer_norm_eps", 1e-5},   {"hidden_act", std::string("quick_gelu")}};
  for (const auto& [name, value] : other) values[name] = value;
  return Config("text_encoder", std::move(values));
}

Config vae_config(Numbers channels, double layers, double groups) {
  return Config("vae", {{"in_channels", 3.0},
                        {"out_channels", 3.0},
                        {"latent_channels", 4.0},
                        {"block_out_channels", std::move(channels)},
                        {"layers_per_block", layers},
                        {"norm_num_groups", groups}});
}

}  // namespace

Config sd15_unet() { return unet_config({}); }

namespace {

Config sdxl_config(const Config::Values& other) {
  const std::string down = "CrossAttnDownBlock2D", up = "CrossAttnUpBlock2D";
  Config::Values values = {{"block_out_channels", Numbers{320, 640, 1280}},
                           {"down_block_types", Words{"DownBlock2D", down, down}},
                           {"up_block_types", Words{up, up, "UpBlock2D"}},
                           {"transformer_layers_per_block", Numbers{1, 2, 10}},
                           {"num_attention_heads", Numbers{5, 10, 20}},
                           {"cross_attention_dim", 2048.0},
                           {"addition_time_embed_dim", 256.0},
                           {"projection_class_embeddings_input_dim", 2816.0}};
  for (const auto& [name, value] : other) values[name] = value;
  return unet_config(values);
}

}  // namespace

Config sdxl_unet() { return sdxl_config({}); }
Config ssd1b_unet() {
  return sdxl_config({{"transformer_layers_per_block", Numbers{1, 1, 2, 2, 4, 4}},
                      {"reverse_transformer_layers_per_block", Numbers{4, 4, 10, 2, 1, 1, 1, 1, 1}},
                      {"mid_block_type", std::string("UNetMidBlock2D")}});
}
Config vega_unet() {
  return sdxl_config({{"transformer_layers_per_block", Numbers{1, 1, 1, 1, 2, 2}},
                      {"reverse_transformer_layers_per_block", Numbers{2, 2, 2, 1, 1, 1, 1, 1, 1}},
                      {"mid_block_type", std::string("UNetMidBlock2D")}});
}
Config sdxl_unet_without_middle() { return sdxl_config({{"mid_block_type", std::string("None")}}); }
Config sd15_text_encoder() { return text_encoder_config(768, 3072, 49408, 77, 12, 12, {}); }
Config sd15_vae() { return vae_config({128, 256, 512, 512}, 2, 32); }

static Config small_unet_config(const Config::Values& other) {
  Config::Values values = {{"block_out_channels", Numbers{8, 16}},
                           {"down_block_types", Words{"CrossAttnDownBlock2D", "DownBlock2D"}},
                           {"up_block_types", Words{"UpBlock2D", "CrossAttnUpBlock2D"}},
                           {"layers_per_block", 1.0},
                           {"num_attention_heads", Numbers{2, 2}},
                           {"transformer_layers_per_block", Numbers{1, 1}},
                           {"cross_attention_dim", 12.0},
                           {"norm_num_groups", 4.0}};
  for (const auto& [name, value] : other) values[name] = value;
  return unet_config(values);
}
Config small_unet(std::vector<double> transformer_layers) {
  return small_unet_config({{"transformer_layers_per_block", std::move(transformer_layers)}});
}
Config small_text_encoder() { return text_encoder_config(12, 24, 40, 9, 2, 3, {}); }
Config small_pooled_text_encoder() {
  return text_encoder_config(8, 16, 40, 9, 3, 2, {{"hidden_act", std::string("gelu")}, {"projection_dim", 6.0}});
}
Config small_sdxl_unet() {
  return small_unet_config(
      {{"cross_attention_dim", 20.0}, {"addition_time_embed_dim", 4.0}, {"projection_class_embeddings_input_dim", 30.0}});
}
Config small_vae() { return vae_config({8, 8}, 1, 4); }

bool has_text_time(const Config& unet) { return unet.has("addition_time_embed_dim"); }

Builder builder(const Config& config, const Weights& weights, const Adapters& adapters, DType dtype, Shapes shapes) {
  return Builder({"net", &config, &weights, &adapters}, dtype, std::move(shapes));
}

std::vector<Layer> adaptable(const Weights& weights, const Config& config, bool convolutions) {
  Builder b = builder(config, weights, kNoAdapters);
  find_function("unet", "predict").build(b, {});
  const auto is_in = [](const Layer& l, const char* part) { return l.path.find(part) != std::string::npos; };
  std::erase_if(b.layers, [&](const Layer& l) {
    return !is_in(l, ".attentions.") && !(convolutions && (is_in(l, ".resnets.") || is_in(l, "samplers.")));
  });
  return b.layers;
}

Adapters adapters_for(const std::vector<Layer>& layers, int64_t rank, float scale) {
  Adapters adapters;
  for (const Layer& l : layers) adapters[l.path] = {Lora{rank, scale}};
  return adapters;
}

Shapes prediction_shapes(const Config& config, LatentShape s, int64_t tokens) {
  Shapes shapes = {{"latents", {s.batch, s.height, s.width, config.count("in_channels")}},
                   {"timesteps", {s.batch}},
                   {"context", {s.batch, tokens, config.count("cross_attention_dim")}}};
  if (!has_text_time(config)) return shapes;
  constexpr int64_t kTimeIds = 6;
  shapes["time_ids"] = {s.batch, kTimeIds};
  shapes["pooled"] = {s.batch, config.count("projection_class_embeddings_input_dim") - kTimeIds * config.count("addition_time_embed_dim")};
  return shapes;
}

Graph train_graph(const Weights& weights, const Config& config, const Adapters& adapters, LatentShape s, int64_t tokens, DType dtype) {
  Builder b = builder(config, weights, adapters, dtype, prediction_shapes(config, s, tokens));
  b.graph.results = {training_loss(b)};
  return std::move(b.graph);
}

Feed train_feed(const Graph& graph, Weights& weights, uint64_t seed) {
  Feed feed = random_feed(graph, seed);
  for (auto& [v, data] : feed) {
    const Value& value = graph.values[v];
    if (value.storage != Storage::weight) continue;
    const Tensor held = weights.get(value.name, value.dtype, value.shape, value.form);
    const auto* halves = static_cast<const uint16_t*>(held.data);
    for (int64_t i = 0; i < value.shape.elements(); i++)
      data[i] = held.dtype == DType::f16 ? widen(Half{halves[i]}) : held.dtype == DType::bf16 ? widen(Bfloat{halves[i]}) : held.f32()[i];
  }
  return feed;
}

}  // namespace lorafuse::test
