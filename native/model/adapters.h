// Kinds of adapters. A kind is a struct of attributes; apply() adds its parameters and ops to a layer, and nothing else knows it:
// buffers, files and states follow the parameters that the built graph has.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <variant>

#include "../graph/graph.h"

namespace lorafuse {

class Builder;

// A layer that can carry an adapter: y [.., N] = x [.., K] · wᵀ, or a convolution of x [B, H, W, K].
struct Layer {
  std::string path;
  bool is_conv = false;  // in the model's files
  int64_t in_features = 0, out_features = 0;
  Conv2d window{.kernel = 1, .stride = 1, .before = 0, .after = 0};
  bool doubles = false;  // convolves x twice as high and wide, nearest neighbour

  bool is_product() const { return window.kernel == 1 && window.stride == 1; }
};

// y += scale · up(down(x)) (arXiv:2106.09685); parameters down [rank, K], up [N, rank]. At a convolution down has its window, as in kohya's
// LoCon: [kernel·kernel, rank, K].
struct Lora {
  int64_t rank = 0;
  float scale = 1;
};

using AdapterKind = std::variant<Lora>;

struct Adapter {
  AdapterKind kind;
  uint8_t group = 0;  // of its parameters
};
using Adapters = std::map<std::string, Adapter>;  // by the path of their layer

// Throws RANK_INVALID where the kind's attributes make no adapter of that layer.
void check(const Lora& lora, const Layer& layer);
// The adapted layer's output; `frozen` emits the layer as the model has it. The order of the ops is that of the sums in backward: it
// decides the last bits of a seed.
ValueId apply(const Lora& lora, Builder& b, const Layer& layer, ValueId x, const std::function<ValueId()>& frozen);

}  // namespace lorafuse
