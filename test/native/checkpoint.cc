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

UNetConfig sd15_unet() {
  UNetConfig c;
  c.block_out_channels = {320, 640, 1280, 1280};
  c.down_attention = {true, true, true, false};
  c.up_attention = {false, true, true, true};
  c.heads = {8, 8, 8, 8};
  return c;
}
UNetConfig sdxl_unet() {
  UNetConfig c;
  c.block_out_channels = {320, 640, 1280};
  c.down_attention = {false, true, true};
  c.up_attention = {true, true, false};
  c.transformer_layers_per_block = {1, 2, 10};
  c.heads = {5, 10, 20};
  c.cross_attention_dim = 2048;
  c.addition_time_embed_dim = 256;
  c.projection_class_embeddings_input_dim = 2816;
  return c;
}
VaeConfig sd15_vae() {
  VaeConfig c;
  c.block_out_channels = {128, 256, 512, 512};
  return c;
}

UNetConfig small_unet() {
  UNetConfig c;
  c.block_out_channels = {8, 16};
  c.down_attention = {true, false};
  c.up_attention = {false, true};
  c.layers_per_block = 1;
  c.heads = {2, 2};
  c.cross_attention_dim = 12;
  c.norm_num_groups = 4;
  return c;
}
TextEncoderConfig small_text_encoder() {
  TextEncoderConfig c;
  c.hidden_size = 12;
  c.intermediate_size = 24;
  c.vocab_size = 40;
  c.max_position_embeddings = 9;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 3;
  return c;
}
VaeConfig small_vae() {
  VaeConfig c;
  c.block_out_channels = {8, 8};
  c.layers_per_block = 1;
  c.norm_num_groups = 4;
  return c;
}

std::vector<LinearLayer> adaptable(const Weights& weights, const UNetConfig& config) {
  Builder b(weights, {});
  const int64_t side = int64_t{1} << (config.block_out_channels.size() - 1);
  predicted(b, config, b.input("latents", {1, side, side, config.in_channels}), 1);
  std::erase_if(b.linears, [](const LinearLayer& l) { return l.path.find(".attentions.") == std::string::npos; });
  return b.linears;
}

ValueId predicted(Builder& b, const UNetConfig& config, ValueId latents, int64_t tokens) {
  const int64_t batch = b.shape(latents)[0];
  const ValueId context = b.input("context", {batch, tokens, config.cross_attention_dim}, b.graph.dtype);
  const ValueId timesteps = b.input("timesteps", {batch});
  if (!config.has_text_time()) return unet(b, config, latents, timesteps, context);
  const int64_t width = config.projection_class_embeddings_input_dim - kTimeIds * config.addition_time_embed_dim;
  const ValueId pooled = b.input("pooled", {batch, width}, b.graph.dtype);
  return unet(b, config, latents, timesteps, context, pooled, b.input("time_ids", {batch, kTimeIds}));
}

Adapters adapters_for(const std::vector<LinearLayer>& layers, int64_t rank) {
  Adapters adapters;
  for (const LinearLayer& l : layers) adapters[l.path] = {l.path, rank, 0.5f};
  return adapters;
}

Graph train_graph(const Weights& weights, const UNetConfig& config, const Adapters& adapters, LatentShape s, int64_t tokens, DType dtype) {
  Builder b(weights, adapters, dtype);
  const Shape latents{s.batch, s.height, s.width, config.in_channels};
  const ValueId noise = b.input("noise", latents);
  const ValueId noisy = b.emit(AddNoise{}, {b.input("latents", latents), noise, b.input("coefficients", {s.batch, 2})});
  const ValueId prediction = predicted(b, config, noisy, tokens);
  b.graph.results = {b.emit(MseLoss{}, {prediction, noise, b.input("weights", {s.batch})})};
  return std::move(b.graph);
}

Feed train_feed(const Graph& graph, Weights& weights, uint64_t seed) {
  Feed feed = random_feed(graph, seed);
  for (auto& [v, data] : feed) {
    const Value& value = graph.values[v];
    if (value.storage != Storage::weight) continue;
    const Tensor held = weights.get(value.name, value.dtype, value.shape);
    const auto* halves = static_cast<const uint16_t*>(held.data);
    for (int64_t i = 0; i < value.shape.elements(); i++)
      data[i] = held.dtype == DType::f16 ? widen(Half{halves[i]}) : held.dtype == DType::bf16 ? widen(Bfloat{halves[i]}) : held.f32()[i];
  }
  return feed;
}

}  // namespace lorafuse::test
