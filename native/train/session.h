// A session owns frozen weights, adapters, moments and the arena, and one program for each thing it was asked to compute.
// Its methods are called from one thread at a time.
#pragma once
#include <array>
#include <deque>
#include <optional>

#include "../model/model.h"
#include "frozen.h"
#include "program.h"

namespace lorafuse {

struct WeightFile {
  std::string path;
  std::vector<WeightEntry> entries;
};

enum class Device { cpu, cuda };

struct SessionOptions {
  Device device = Device::cpu;
  int threads = 1;
  // On a GPU: the type of activations and weight matrices. On the CPU, which computes in f32, of weight matrices; f32: as the file has
  // them.
  DType precision = DType::f32;
  UNetConfig unet;
  std::optional<TextEncoderConfig> text_encoder;
  std::optional<VaeConfig> vae;
  std::vector<WeightFile> unet_files, text_encoder_files, vae_files;
};

struct LatentShape { int64_t batch = 1, height = 0, width = 0; };

struct StepInput {  // see lib/native.ts
  LatentShape shape;
  int64_t tokens = 77;
  std::vector<float> latents, noise, coefficients, timesteps, context;
};

struct MemoryPlan {
  size_t weights = 0, adapters = 0, activations = 0, workspace = 0;
  size_t total() const { return weights + adapters + activations + workspace; }
};

enum class AdapterBuffer { weights, gradients, first_moment, second_moment };

class Session {
 public:
  explicit Session(SessionOptions options);
  ~Session();

  const UNetConfig& unet_config() const { return options_.unet; }
  std::vector<LinearLayer> modules();  // of the attention blocks

  // Throws UNKNOWN_MODULE or INVALID_RANK and changes nothing then.
  void attach(const std::vector<Adapter>& adapters);
  int64_t parameters() const { return parameters_; }
  std::vector<float> read_adapters(AdapterBuffer buffer);
  void write_adapters(AdapterBuffer buffer, const float* data, int64_t count);

  MemoryPlan memory_plan(LatentShape shape, int64_t tokens);

  std::vector<float> encode_text(const std::vector<int32_t>& ids, int64_t count, int skip);
  std::vector<float> encode_images(const std::vector<float>& pixels, LatentShape pixel_shape);
  std::vector<float> decode_latents(const std::vector<float>& latents, LatentShape shape);
  std::vector<float> predict(const std::vector<float>& latents, LatentShape shape, const std::vector<float>& timesteps,
                             const std::vector<float>& context);
  // Training. On a GPU load() and step() return at once: the next batch is loaded while the one before it is computed.
  void load(const StepInput& input);
  // Of the batch that was loaded first; with an update, of all gradients since the last one, at its end.
  void step(const std::vector<float>& weights, const AdamW* update = nullptr);
  std::vector<float> losses();  // of the steps since the last call
  float norm();                 // of the last update's gradients; not finite: it changed nothing

 private:
  Program build_train(LatentShape shape, int64_t tokens);
  Program build(Frozen& frozen, const std::function<ValueId(Builder&)>& network);
  Builder builder(Frozen& frozen) const;
  Program& cached(const std::string& key, const std::function<Program()>& make);
  void place(Frozen& frozen, Program& program);
  std::vector<float> run(Frozen& frozen, Program& program, std::initializer_list<std::pair<const char*, const void*>> inputs);
  void collect_losses();
  Tensor bind(Frozen& frozen, const Value& value);
  float* buffer(AdapterBuffer which) const { return memory_[static_cast<int>(which)]; }
  Trained trained() const { return {memory_[0], memory_[1], memory_[2], memory_[3], parameters_}; }
  void free_adapters();
  void free_arena();
  void release_encoders();

  struct Block {
    void* memory = nullptr;
    size_t bytes = 0;
    std::unique_ptr<Mark> taken;  // when it was last read
  };
  // A batch that waits for its step, in a block that the next but one uses again.
  struct Loaded {
    LatentShape shape;
    Program* program;
    Block* inputs;
  };

  SessionOptions options_;
  std::shared_ptr<Backend> backend_;
  DType dtype_;  // of activations; the VAE's are f32: those of SDXL's overflow in f16
  Frozen unet_frozen_, text_encoder_frozen_, vae_frozen_;
  Adapters adapters_;
  std::map<std::string, int64_t> parameter_offsets_;  // "<path>.down" → floats from the start of each adapter buffer
  int64_t parameters_ = 0;
  std::array<float*, 4> memory_{};  // one for each AdapterBuffer
  float* results_ = nullptr;        // in the backend's memory: an update's norm, then losses not collected yet
  int64_t pending_ = 0;             // how many
  std::vector<float> losses_;       // that were collected
  std::array<Block, 2> blocks_;     // of inputs, used in turn
  size_t loads_ = 0;
  std::deque<Loaded> loaded_;
  std::map<std::string, Program> programs_;
  void* arena_ = nullptr;
  size_t arena_bytes_ = 0;
};

}  // namespace lorafuse
