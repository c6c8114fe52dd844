// Checkpoints made up for tests: the tensors that diffusers and transformers save for given configs, random or as a sparse file.
#pragma once
#include <filesystem>

#include "model/model.h"
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
Layout unet_layout(const UNetConfig& config, DType dtype = DType::f32);
Layout text_encoder_layout(const TextEncoderConfig& config, DType dtype = DType::f32);
Layout vae_layout(const VaeConfig& config, DType dtype = DType::f32);

WeightFile write_random(const std::string& path, const Layout& layout, uint64_t seed);
WeightFile write_sparse(const std::string& path, const Layout& layout);  // all zeros, on no disk

UNetConfig sd15_unet();
UNetConfig sdxl_unet();
VaeConfig sd15_vae();
// Two levels, attention in one; every kind of layer of the large one.
UNetConfig small_unet();
TextEncoderConfig small_text_encoder();
VaeConfig small_vae();

std::vector<LinearLayer> adaptable(const Weights& weights, const UNetConfig& config);
Adapters adapters_for(const std::vector<LinearLayer>& layers, int64_t rank);

// How many numbers SDXL's text_time takes: height, width, crop top and left, target height and width.
constexpr int64_t kTimeIds = 6;
// The UNet's output for these latents. Its other inputs are made: timesteps, context and, where text_time is, pooled and time_ids.
ValueId predicted(Builder& b, const UNetConfig& config, ValueId latents, int64_t tokens);
// The step's forward: noise is added, predicted and compared; results = {loss}.
Graph train_graph(const Weights& weights, const UNetConfig& config, const Adapters& adapters, LatentShape shape, int64_t tokens,
                  DType dtype = DType::f32);
// Random inputs and adapters, the weights as the file has them.
std::map<ValueId, std::vector<float>> train_feed(const Graph& graph, Weights& weights, uint64_t seed);

}  // namespace lorafuse::test
