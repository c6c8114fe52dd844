// The goldens of diffusers + peft (scripts/goldens), read without Node: safetensors files, and the numbers that both sides make from names.
#pragma once
#include "checkpoint.h"
#include "json.h"

namespace lorafuse::test {

// test/fixtures of the source tree, unless `gpu_check --goldens` names a copy.
std::string fixtures();
void set_fixtures(const std::string& folder);

std::string read_file(const std::string& path);

// Header and data of a .safetensors file. Throws Failure, naming the file, where it is not one.
struct Safetensors {
  std::string path;
  std::map<std::string, std::string> metadata;
  std::vector<WeightEntry> entries;  // offsets from the start of the file, as WeightFile has them
  std::string bytes;

  explicit Safetensors(const std::string& path);
  const WeightEntry& entry(const std::string& name) const;
  std::vector<float> tensor(const std::string& name) const;  // widened
};

// Uniform numbers of mean 0 and the given standard deviation from a name: the twin of scripts/goldens/pattern.py, to the bit.
std::vector<float> pattern(const std::string& name, int64_t count, double deviation = 1);

// diffusers' unet/config.json, lists where it has one value for all blocks.
Config read_unet_config(const std::string& path);

struct Golden {
  std::string name;  // golden-sd1, golden-sdxl
  Config config;
  Safetensors unet, file;
  // scripts/goldens/reference.py, class Case
  int64_t rank, steps;
  float alpha;
  double deviation;
  LatentShape latents;

  explicit Golden(const std::string& name);

  // The largest relative error that any one tensor of a group may have, as in test/train/golden.ts: in f32 1e-5, up to 1e-4 where
  // PyTorch's own f32 is not that near; in f16 and bf16 twice what PyTorch's mixed precision
  // is off.
  double limit(DType computes, const std::string& group) const;

 private:
  Json about_;
};

// ‖value − truth‖ / ‖truth‖
double relative_error(const std::vector<float>& value, const std::vector<float>& truth);

}  // namespace lorafuse::test
