// Builds the graph of a network layer by layer; a path is the module's name in the model's files.
#pragma once
#include <utility>

#include "../base/config.h"
#include "../base/weights.h"
#include "adapters.h"

namespace lorafuse {

// What a graph is built from. It outlives the builder.
struct Network {
  std::string name;  // in its session: unet, text_encoder, vae
  const Config* config;
  const Weights* weights;
  const Adapters* adapters;
};

using Shapes = std::map<std::string, Shape>;  // of a graph's inputs, by name

// Extents of an input that the caller chooses.
constexpr int64_t kAny = -1;
constexpr int64_t multiple_of(int64_t n) { return -n; }

class Builder {
 public:
  // dtype: of activations. shapes: of inputs; one that is not there takes the smallest that fits, as for a graph that is only looked at.
  Builder(Network network, DType dtype, Shapes shapes = {});

  Graph graph;
  std::vector<Layer> layers;  // that could carry an adapter, as they are met

  const Config& config() const { return *network_.config; }
  // Whose weights and adapters the layers that follow read; returns the network before it.
  Network enter(Network network) { return std::exchange(network_, std::move(network)); }

  // expected: each extent, kAny or multiple_of(n). Throws SHAPE_MISMATCH naming the input.
  ValueId input(const std::string& name, const std::vector<int64_t>& expected, DType dtype = DType::f32);
  // In the type of activations.
  ValueId activations(const std::string& name, const std::vector<int64_t>& expected) { return input(name, expected, graph.dtype); }
  ValueId emit(Op op, std::vector<ValueId> inputs) { return graph.emit(std::move(op), std::move(inputs)); }
  const Shape& shape(ValueId v) const { return graph.shape(v); }

  // The tensor as the model's files have it; nullptr where they do not.
  const WeightEntry* in_file(const std::string& name) const { return network_.weights->find(name); }
  // file_shape: what the model's files must have. Throws WEIGHT_MISSING, WEIGHT_SHAPE.
  ValueId weight(const std::string& name, const std::vector<int64_t>& file_shape, Form form = Form::as_is);
  ValueId parameter(const std::string& name, Shape shape);

  // A linear layer or 1×1 convolution with the adapter that is attached to it: x [.., K] → [.., N].
  ValueId linear(const std::string& path, ValueId x, int64_t out_features, bool bias = true);
  // The same of a larger convolution.
  ValueId conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op = {});
  // That never has an adapter: kohya's and diffusers' LoRAs leave out a network's first and last convolution.
  ValueId frozen_conv(const std::string& path, ValueId x, int64_t out_channels, Conv2d op = {});
  ValueId group_norm(const std::string& path, ValueId x, int64_t groups, float eps, bool silu);
  ValueId layer_norm(const std::string& path, ValueId x, float eps);
  ValueId activation(Function function, ValueId x) { return emit(Activation{function}, {x}); }
  // diffusers:models/attention_processor.py, Attention: q from x [.., N], k and v from `source`, x itself or the text.
  ValueId attention(const std::string& path, ValueId x, ValueId source, int64_t heads, bool bias);
  // x + convolutions; `embedding` [B, K] = SiLU of the time embedding, or kNone.
  ValueId resnet(const std::string& path, ValueId x, ValueId embedding, int64_t out_channels, int64_t groups, float eps);
  // Twice as high and wide, nearest neighbour, then a 3×3 convolution: one op, and the adapter that is attached to it.
  ValueId upsample(const std::string& path, ValueId x);

  // Names where the nodes are that are emitted while it lives: in a layer, a block, or a part of the block, which is one that takes few
  // operations to compute again for what it keeps.
  class Scope {
   public:
    using Kind = std::string Graph::*;
    Scope(Builder& b, std::string name, Kind kind = &Graph::layer)
        : place_(b.graph.*kind), outer_(std::exchange(place_, std::move(name))) {}
    ~Scope() { place_ = std::move(outer_); }
    Scope(const Scope&) = delete;

   private:
    std::string& place_;
    std::string outer_;
  };
  // A block, named like the layer that it is.
  class Block {
   public:
    Block(Builder& b, const std::string& name) : layer_(b, name), block_(b, name, &Graph::block) {}

   private:
    Scope layer_, block_;
  };

 private:
  // What the adapter that is attached to a layer makes of it; `frozen` emits the layer as the model has it.
  ValueId adapted(const Layer& layer, ValueId x, const std::function<ValueId()>& frozen);

  Network network_;
  const Shapes shapes_;
  uint8_t group_ = 0;                                               // of the parameters that are made
  std::map<std::pair<std::string, std::string>, ValueId> weights_;  // by network and name, each once
};

}  // namespace lorafuse
