// A graph is two flat lists: values (what is computed) and nodes (how), in execution order. Passes are pure: graph in, graph out.
//   program = plan(fuse(gradients(unet(shape))))
#pragma once
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "../base/tensor.h"
#include "ops.h"

namespace lorafuse {

using ValueId = int32_t;
constexpr ValueId kNone = -1;

enum class Storage : uint8_t {
  input,       // written by the caller before each run; in the arena until its last reader
  weight,      // frozen
  parameter,   // trainable: the adapters
  gradient,    // of a parameter; persists between runs, only ever added to
  activation,  // placed in the arena by plan()
};

struct Value {
  std::string name;  // a weight's name in its file, a parameter's path, or the op that made it
  Shape shape;
  DType dtype = DType::f32;
  Storage storage = Storage::activation;
  std::string network{};    // whose weight or parameter it is, as a graph may span several
  Form form = Form::as_is;  // of a weight
  uint8_t group = 0;        // of the optimizer, for a parameter and its gradient
  size_t bytes() const { return static_cast<size_t>(shape.elements()) * size_of(dtype); }
  bool is_planned() const { return storage == Storage::activation || storage == Storage::input; }  // its memory is in the arena
};

struct Node {
  Op op;
  std::vector<ValueId> inputs, outputs;
  // Where in its network: a module's path, the block that may be computed again as a whole, and the part of that which may be on its own.
  std::string layer{}, block{}, part{};
};

// What is computed again in the backward pass instead of being kept (gradient checkpointing, arXiv:1604.06174): all blocks, or the blocks
// and parts of these names; a part of a block that is chosen goes with it.
struct Recompute {
  bool all = false;
  std::set<std::string> names;
  Recompute(bool all_blocks = false) : all(all_blocks) {}
  explicit Recompute(std::set<std::string> chosen) : names(std::move(chosen)) {}
  // The block or part that this node is computed again with; empty: it is kept.
  const std::string& region(const Node& node) const;
};

struct Graph {
  DType dtype = DType::f32;  // of the activations that emit() makes; statistics and losses are f32 whatever it is
  std::vector<Value> values;
  std::vector<Node> nodes;
  std::vector<ValueId> results;          // stay readable after the run
  std::string layer{}, block{}, part{};  // of the nodes that are emitted next

  ValueId value(Value v) {
    values.push_back(std::move(v));
    return static_cast<ValueId>(values.size()) - 1;
  }
  // Appends a node; checks and infers shapes. Returns all outputs / the first one.
  std::vector<ValueId> emit_all(Op op, std::vector<ValueId> inputs);
  ValueId emit(Op op, std::vector<ValueId> inputs) { return emit_all(std::move(op), std::move(inputs)).front(); }
  // Appends a node that adds to `outputs`, which are there already: gradients.
  void accumulate(Op op, std::vector<ValueId> inputs, std::vector<ValueId> outputs);
  const Shape& shape(ValueId id) const { return values.at(id).shape; }
  std::vector<Shape> shapes(const std::vector<ValueId>& ids) const {
    std::vector<Shape> all;
    for (ValueId id : ids) all.push_back(shape(id));
    return all;
  }
};

// shapes.cc — shapes of an op's outputs; throws SHAPE_MISMATCH naming the op and the shapes.
std::vector<Shape> output_shapes(const Op& op, const std::vector<Shape>& inputs);
// shapes.cc — the element type of output `position` where activations are `dtype`.
DType output_dtype(const Op& op, size_t position, DType dtype);

// gradients.cc — appends the backward of `loss` (an MseLoss output). Each parameter gets a value of storage `gradient` with its name,
// network and group; a parameter that would get none throws NO_GRADIENT naming it.
// Nothing before the first parameter, and nothing a gradient rule does not name, is computed or kept.
// recompute: of these blocks only what others read is kept; the rest that their gradients need is computed again before them, to the same
// bits. The last block is kept.
Graph gradients(const Graph& forward, ValueId loss, const Recompute& recompute = {});

// recompute.cc — the names of all blocks (&Node::block) or parts (&Node::part).
std::set<std::string> region_names(const Graph& graph, std::string Node::* kind);
// recompute.cc — the fewest blocks and parts, those first that save most bytes for the operations they take again, with which the graph of
// a step `fits`; nothing if it does not with all blocks either.
std::optional<Recompute> cheapest_recompute(const Graph& forward, ValueId loss, const std::function<bool(const Graph& step)>& fits);

// fuse.cc — rewrites that save memory traffic; the result computes the same.
struct FuseOptions {
  bool pairs = true;          // Add(MatMul, MatMul) → one MatMul over both operand pairs
  bool residual = true;       // Add(MatMul | Conv2d, x) → residual of the product
  bool lora = false;          // a layer and its adapter, and layers that share x → one LoraMatMul or LoraMatMulGrad; needs pairs
  bool geglu = false;         // Geglu, GegluGrad → gate of the product before
  bool weight_grads = false;  // WeightGrads that are near each other → one
};
Graph fuse(Graph graph, FuseOptions options = {});
Graph fuse_lora(Graph graph);          // fuse_lora.cc, the second part of it
Graph fuse_geglu(Graph graph);         // fuse_geglu.cc, the third
Graph fuse_weight_grads(Graph graph);  // fuse_weight_grads.cc, the last

// plan.cc — where each activation lives.
struct Plan {
  std::vector<size_t> offsets;               // per value, in the arena; only meaningful for inputs and activations
  std::vector<size_t> workspaces;            // per node, offset of its workspace
  std::vector<int32_t> first_use, last_use;  // per value, node positions; last_use = nodes.size() for results
  std::vector<size_t> alive;                 // per node: bytes that are in use while it runs, its workspace among them
  size_t arena_bytes = 0;
  size_t lower_bound_bytes = 0;  // the most that is alive at once: no plan can be smaller
};
// workspace_bytes[i]: scratch that node i needs while it runs.
Plan plan(const Graph& graph, const std::vector<size_t>& workspace_bytes);

}  // namespace lorafuse
