// Checkpoints made up for tests: the tensors that diffusers and transformers save for given configs, random or as a sparse file.
#pragma once
#include <filesystem>

#include "train/objective.h"
#include "train/session.h"

namespace lorafuse::test {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

void write_file(const std::string& path, const std::vector<unsigned char>& bytes);

// The names and shapes of a file, written down from the libraries' own modules and not from ours.
struct Layout {
  std::vector<WeightEntry> entries;
  size_t bytes = 0;
  DType dtype = DType::f32;

  void add(const std::string& name, Shape shape);
  void layer(const std::string& path, Shape weight, bool bias = true);
  void norm(const std::string& path, int64_t channels) { layer(path, {channels}); }
  int64_t parameters() const;
};
Layout unet_layout(const Config& config, DType dtype = DType::f32);
Layout text_encoder_layout(const Config& config, DType dtype = DType::f32);
Layout vae_layout(const Config& config, DType dtype = DType::f32);

WeightFile write_random(const std::string& path, const Layout& layout, uint64_t seed);
WeightFile write_sparse(const std::string& path, const Layout& layout);  // all zeros, on no disk

Config sd15_unet();
Config sdxl_unet();
// SDXL's with fewer layers.
Config ssd1b_unet();
Config vega_unet();
Config sdxl_unet_without_middle();
Config sd15_text_encoder();
Config sd15_vae();
// Two levels, attention in one; every kind of layer of the large one.
Config small_unet(std::vector<double> transformer_layers = {1, 1});
Config small_text_encoder();
// Of SDXL's kind: a second text encoder, whose text is pooled too.
Config small_pooled_text_encoder();
Config small_sdxl_unet();
Config small_vae();
bool has_text_time(const Config& unet);

// A builder of one network's graph; all but `shapes` outlive it.
Builder builder(const Config& config, const Weights& weights, const Adapters& adapters, DType dtype = DType::f32, Shapes shapes = {});
inline const Adapters kNoAdapters;

// The layers of a UNet's attention blocks; with convolutions those of its resnets and between its levels, too.
std::vector<Layer> adaptable(const Weights& weights, const Config& config, bool convolutions = false);
Adapters adapters_for(const std::vector<Layer>& layers, int64_t rank, float scale = 0.5f);

struct LatentShape { int64_t batch = 1, height = 0, width = 0; };
// Of the inputs of a UNet's prediction.
Shapes prediction_shapes(const Config& config, LatentShape latents, int64_t tokens);
// The step's forward: noise is added, predicted and compared; results = {loss}.
Graph train_graph(const Weights& weights, const Config& config, const Adapters& adapters, LatentShape shape, int64_t tokens,
                  DType dtype = DType::f32);
// Random inputs and adapters, the weights as the file has them.
std::map<ValueId, std::vector<float>> train_feed(const Graph& graph, Weights& weights, uint64_t seed);

}  // namespace lorafuse::test
