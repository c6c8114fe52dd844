#include "op_rows.h"

#include <set>
#include <utility>

#include "backends.h"
#include "coverage.h"
#include "reference.h"

namespace lorafuse::test {
namespace {

constexpr int64_t kOutputs = 4096;  // small rows are tried with other numbers until this many outputs have an error
constexpr int64_t kMostTrials = 256, kMostElements = 1 << 18;

struct Trial {
  std::vector<std::vector<unsigned char>> inputs;
  std::vector<Array<double>> expected;
  std::vector<std::vector<float>> accumulated;  // what an op that accumulates adds to, by output; else nothing
};

// Where a row runs: on the CPU with the types that it names, or on the GPU with activations of one type. Products round their operands.
struct Target {
  bool gpu = false;
  DType activations = DType::f32, multiplies = activations;
  bool operator==(const Target&) const = default;
};

// kernels.h of the CUDA backend: matrices and activations are T, vectors, adapters, statistics and what losses are made of f32.
bool is_f32(const AttentionGrad&, size_t input) { return input == 4; }
bool is_f32(const GroupNormGrad&, size_t input) { return input == 3; }
bool is_f32(const LayerNormGrad&, size_t input) { return input == 2; }
bool is_f32(const AddNoise&, size_t) { return true; }
bool is_f32(const MseLoss&, size_t input) { return input > 0; }
bool is_f32(const MseLossGrad&, size_t input) { return input > 0; }
bool is_f32(const LoraMatMul& op, size_t input) { return input % 3 != 1 && input > 0 && input < op.operands(); }  // down and up
bool is_f32(const LoraMatMulGrad& op, size_t input) { return input % 4 > 1 && input < op.operands(); }            // up and down
bool is_f32(const MatMul& op, size_t input) { return input % 2 == 1 && input > 1 && input < op.operands(); }      // the adapter of a pair
bool is_f32(const Sinusoid&, size_t) { return true; }
template <class AnyOp> bool is_f32(const AnyOp&, size_t) { return false; }

DType type_of(const Row& row, size_t input, Target target) {
  const Input& in = row.inputs[input];
  if (!target.gpu || in.dtype == DType::i32) return in.dtype;
  const bool f32 = in.parameter || in.shape.rank() == 1 || std::visit([&](const auto& op) { return is_f32(op, input); }, row.op);
  return f32 ? DType::f32 : target.activations;
}

// A product, whose operands may be rounded.
bool rounds_operands(const Op& op) {
  return std::visit(
      []<class AnyOp>(const AnyOp&) {
        return is_one_of<AnyOp, MatMul, LoraMatMul, LoraMatMulGrad, WeightGrad, Conv2d, ConvTranspose2d, ConvWeightGrad, Attention,
                         AttentionGrad>;
      },
      op);
}

struct Prepared {
  std::vector<Shape> shapes;  // of the outputs
  std::vector<DType> types;
  std::vector<Trial> trials;
  std::vector<Deviation> naive;  // of each output
};

template <class T> std::vector<Array<T>> outputs_of(const Row& row, const std::vector<Array<double>>& inputs, const Prepared& p,
                                                    const std::vector<std::vector<float>>& accumulated, Target target = {}) {
  std::vector<Array<T>> in, out;
  for (const auto& x : inputs) in.emplace_back(x.shape, x.data);
  for (const Shape& s : p.shapes) out.emplace_back(s);
  for (size_t i = 0; i < accumulated.size(); i++) out[i] = Array<T>(p.shapes[i], accumulated[i]);
  Operands<T> operands;
  for (const auto& x : in) operands.inputs.push_back(&x);
  for (auto& x : out) operands.outputs.push_back(&x);
  const DType stores = operands.stores = target.activations;
  operands.multiplies = target.multiplies;
  compute(row.op, operands);
  for (size_t i = 0; i < out.size(); i++)
    if (stores != DType::f32 && p.types[i] == stores)
      for (T& x : out[i].data) x = operands.round(x);
  // PyTorch's convolutions in bf16 round their results, too. The CPU's do not, but Winograd's round what they transform.
  if (std::holds_alternative<Conv2d>(row.op) || std::holds_alternative<ConvTranspose2d>(row.op))
    for (T& x : out[0].data) x = operands.operand(x);
  return out;
}

Trial trial(const Row& row, Target target, Prepared& p, uint64_t seed) {
  Random random(seed);
  Trial t;
  std::vector<Array<double>> inputs;
  for (size_t i = 0; i < row.inputs.size(); i++) {
    inputs.emplace_back(row.inputs[i].shape);
    for (double& x : inputs.back().data) x = rounded(type_of(row, i, target), row.inputs[i].fill(random));
  }
  if (row.derive) row.derive(inputs);
  for (size_t i = 0; i < inputs.size(); i++) {
    const DType type = type_of(row, i, target);
    for (double& x : inputs[i].data) x = rounded(type, static_cast<float>(x));
    t.inputs.push_back(stored(type, std::vector<float>(inputs[i].data.begin(), inputs[i].data.end())));
  }
  if (std::visit([](const auto& op) { return requires { op.accumulates; }; }, row.op))
    for (const Shape& s : p.shapes) t.accumulated.push_back(random.normals(s.elements()));
  t.expected = outputs_of<double>(row, inputs, p, t.accumulated);
  const auto naive = outputs_of<float>(row, inputs, p, t.accumulated, target);
  for (size_t i = 0; i < naive.size(); i++) p.naive[i].add(naive[i], t.expected[i]);
  return t;
}

Prepared without_trials(const Row& row, Target target) {
  Prepared p;
  std::vector<Shape> inputs;
  for (const Input& input : row.inputs) inputs.push_back(input.shape);
  p.shapes = output_shapes(row.op, inputs);
  for (size_t i = 0; i < p.shapes.size(); i++) p.types.push_back(output_dtype(row.op, i, target.activations));
  p.naive.resize(p.shapes.size());
  return p;
}

// The cases of a row follow each other, so only the latest one is kept.
const Prepared& prepared(const std::shared_ptr<const Row>& row, Target target) {
  static std::pair<std::shared_ptr<const Row>, Target> latest;
  static Prepared p;
  if (latest == std::pair(row, target)) return p;
  p = without_trials(*row, target);
  int64_t elements = 0;
  for (const Input& input : row->inputs) elements += input.shape.elements();
  const int64_t wanted = std::min(kOutputs / p.shapes[0].elements(), kMostElements / elements);
  const int64_t trials = std::clamp<int64_t>(wanted, 1, kMostTrials);
  for (int64_t i = 0; i < trials; i++) p.trials.push_back(trial(*row, target, p, 1000 + i));
  latest = {row, target};
  return p;
}

// An input in memory that ends where it ends, at an address that is a multiple of its element's size only.
struct Unaligned {
  std::unique_ptr<unsigned char[]> memory;
  unsigned char* data;
  Unaligned(DType dtype, const std::vector<unsigned char>& bytes)
      : memory(new unsigned char[bytes.size() + size_of(dtype)]), data(memory.get() + size_of(dtype)) {
    std::copy(bytes.begin(), bytes.end(), data);
  }
};

std::vector<std::vector<float>> run(const Row& row, const Prepared& p, const Trial& t, Backend& backend) {
  Graph graph;
  Node node{row.op, {}, {}};
  std::vector<Tensor> tensors;
  std::vector<Unaligned> inputs;
  std::vector<Guarded> outputs;
  for (size_t i = 0; i < row.inputs.size(); i++) {
    const Input& input = row.inputs[i];
    node.inputs.push_back(graph.value({"", input.shape, input.dtype, Storage::input}));
    inputs.emplace_back(input.dtype, t.inputs[i]);
    tensors.push_back({inputs.back().data, input.dtype, input.shape});
  }
  for (const Shape& s : p.shapes) {
    node.outputs.push_back(graph.value({"", s, DType::f32, Storage::activation}));
    outputs.emplace_back(s.elements() * sizeof(float));
    tensors.push_back({outputs.back().data(), DType::f32, s});
  }
  for (size_t i = 0; i < t.accumulated.size(); i++) std::memcpy(outputs[i].data(), t.accumulated[i].data(), outputs[i].bytes());
  const Guarded workspace(backend.workspace_bytes(graph, node));
  backend.run(node, tensors, workspace.data());

  workspace.expect_intact("the workspace");
  for (size_t i = 0; i < inputs.size(); i++)
    EXPECT(std::equal(t.inputs[i].begin(), t.inputs[i].end(), inputs[i].data), "input ", i, " was written");
  std::vector<std::vector<float>> results;
  for (size_t i = 0; i < outputs.size(); i++) {
    outputs[i].expect_intact(text("output ", i));
    const auto* data = reinterpret_cast<const float*>(outputs[i].data());
    results.emplace_back(data, data + p.shapes[i].elements());
  }
  return results;
}

// Runs a row on the GPU and returns its memory, inputs before outputs. Without a trial the inputs are not written.
std::vector<Held> launch(const Row& row, const Prepared& p, const Trial* t, Target target, Backend& backend) {
  Graph graph;
  graph.dtype = target.activations;
  Node node{row.op, {}, {}};
  std::vector<Tensor> tensors;
  std::vector<Held> memory;
  for (size_t i = 0; i < row.inputs.size(); i++) {
    const DType type = type_of(row, i, target);
    node.inputs.push_back(graph.value({"", row.inputs[i].shape, type, Storage::input}));
    if (t) memory.emplace_back(backend, t->inputs[i]);
    else memory.emplace_back(backend, row.inputs[i].shape.elements() * size_of(type));
    tensors.push_back({memory.back().data(), type, row.inputs[i].shape});
  }
  for (size_t i = 0; i < p.shapes.size(); i++) {
    node.outputs.push_back(graph.value({"", p.shapes[i], p.types[i], Storage::activation}));
    if (t && !t->accumulated.empty()) memory.emplace_back(backend, stored(DType::f32, t->accumulated[i]));
    else memory.emplace_back(backend, p.shapes[i].elements() * size_of(p.types[i]));
    tensors.push_back({memory.back().data(), p.types[i], p.shapes[i]});
  }
  const Held workspace(backend, backend.workspace_bytes(graph, node));
  backend.run(node, tensors, workspace.data());
  return memory;
}

std::vector<std::vector<float>> run_on_gpu(const Row& row, const Prepared& p, const Trial& t, Target target, Backend& backend) {
  const std::vector<Held> memory = launch(row, p, &t, target, backend);
  for (size_t i = 0; i < row.inputs.size(); i++) EXPECT(memory[i].read() == t.inputs[i], "input ", i, " was written");
  std::vector<std::vector<float>> results;
  for (size_t i = 0; i < p.shapes.size(); i++) results.push_back(loaded(p.types[i], memory[row.inputs.size() + i].read()));
  return results;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check_numbers(const Row& row, const Prepared& p, Target target, Backend& backend) {
  std::vector<Deviation> deviations(p.shapes.size());
  for (const Trial& t : p.trials) {
    const auto results = run(row, p, t, backend);
    for (size_t i = 0; i < results.size(); i++) deviations[i].add(std::span(results[i]), t.expected[i]);
  }
  for (size_t i = 0; i < deviations.size(); i++)
    expect_as_good(text("output ", i), deviations[i], p.naive[i], rounds_operands(row.op) ? target.multiplies : DType::f32);
}

// Several threads need only give the bits of one.
void check_bits(const Row& row, const Prepared& p, Backend& backend, Backend& alone) {
  for (size_t t = 0; t < std::min<size_t>(p.trials.size(), 4); t++) {
    const auto results = run(row, p, p.trials[t], backend), expected = run(row, p, p.trials[t], alone);
    for (size_t i = 0; i < results.size(); i++)
      EXPECT(same_bits(results[i], expected[i]), "output ", i, " has other bits than with one thread");
  }
}

void check_on_gpu(const std::shared_ptr<const Row>& row, DType activations) {
  const Target target{true, activations};
  const Prepared& p = prepared(row, target);
  std::vector<Deviation> deviations(p.shapes.size());
  for (const Trial& t : p.trials) {
    const auto results = run_on_gpu(*row, p, t, target, *gpu());
    for (size_t i = 0; i < results.size(); i++) deviations[i].add(std::span(results[i]), t.expected[i]);
  }
  for (size_t i = 0; i < deviations.size(); i++) expect_as_good(text("output ", i), deviations[i], p.naive[i], p.types[i]);

  const auto expected = run_on_gpu(*row, p, p.trials[0], target, *gpu());
  for (const char* order : {"backward", "random", "forward"}) {
    set_emulator("order", order);
    const auto results = run_on_gpu(*row, p, p.trials[0], target, *gpu());
    for (size_t i = 0; i < results.size(); i++)
      EXPECT(same_bits(results[i], expected[i]), "output ", i, " has other bits where warps and blocks run in the order ", order);
  }
}

void check(const std::shared_ptr<const Row>& row, const std::string& variant, int threads) {
  const Target target{.multiplies = multiplies(variant)};
  const Prepared& p = prepared(row, target);
  if (threads == 1) check_numbers(*row, p, target, backend(variant, 1));
  else check_bits(*row, p, backend(variant, threads), backend(variant, 1));
}

// For a row's name: the op's attributes, and the number of inputs whose shapes it shows.
struct Description {
  std::string attributes;
  size_t shown = 1;
};
std::string extras(bool bias, bool residual) { return std::string(bias ? " +bias" : "") + (residual ? " +residual" : ""); }
const char* name_of(Gate gate) { return gate == Gate::none ? "" : gate == Gate::geglu ? " geglu" : " geglu_grad"; }
const char* name_of(Function f) { return f == Function::silu ? " silu" : f == Function::gelu ? " gelu" : " quick_gelu"; }

template <class Convolution> std::string window(const Convolution& op) {
  return text(" ", op.kernel, "x", op.kernel, " stride ", op.stride, " pad ", op.before, ",", op.after);
}

std::string ending(const Epilogue& e) { return extras(e.bias, e.residual) + name_of(e.gate); }

Description describe(const MatMul& op) {
  std::string pairs;
  for (const auto& pair : op.pairs)
    if (pair.scale != 1 || pair.transposed) pairs += text(" ", pair.scale, pair.transposed ? "T" : "");
  return {pairs + ending(op.epilogue), op.operands()};
}
template <class Adapted> Description describe_adapted(const Adapted& op) {
  std::string scales;
  for (float scale : op.scales) scales += text(" ", scale);
  return {scales + ending(op.epilogue), op.operands()};
}
Description describe(const LoraMatMul& op) { return describe_adapted(op); }
Description describe(const LoraMatMulGrad& op) { return describe_adapted(op); }
Description describe(const WeightGrad& op) { return {"", std::min<size_t>(2 * op.scales.size(), 12)}; }
Description describe(const Conv2d& op) { return {window(op) + ending(op.epilogue), 2}; }
Description describe(const ConvTranspose2d& op) { return {text(window(op), " to ", op.height, "x", op.width, ending(op.epilogue)), 2}; }
Description describe(const ConvWeightGrad& op) { return {window(op), 2}; }
Description describe(const Attention& op) { return {text(op.causal ? " causal " : " ", op.heads, " heads"), 2}; }
Description describe(const AttentionGrad& op) { return {text(op.causal ? " causal " : " ", op.heads, " heads"), 2}; }
Description describe(const GroupNorm& op) { return {text(" ", op.groups, " groups", op.silu ? " silu" : ""), 1}; }
Description describe(const GroupNormGrad& op) {
  return {text(" ", op.groups, " groups", op.silu ? " silu" : "", extras(false, op.residual)), 1};
}
Description describe(const LayerNormGrad& op) { return {extras(false, op.residual), 1}; }
Description describe(const Activation& op) { return {name_of(op.function), 1}; }
Description describe(const ActivationGrad& op) { return {name_of(op.function), 1}; }
Description describe(const Slice& op) { return {text(" ", op.begin, "…", op.end), 1}; }
Description describe(const Sinusoid& op) { return {text(" ", op.dim, op.cos_first ? " cos first" : " sin first", " shift ", op.shift), 1}; }
Description describe(const AddNoise& op) { return {op.f32 ? " f32" : "", 1}; }
Description describe(const Concat&) { return {"", 2}; }
Description describe(const Embedding&) { return {"", 2}; }
Description describe(const Gather&) { return {"", 2}; }
Description describe(const GatherGrad& op) { return {text(" to ", op.shape), 2}; }
template <class AnyOp> Description describe(const AnyOp&) { return {}; }

std::string shapes_of(const Row& row) {  // the op, its attributes and shapes
  const Description d = std::visit([](const auto& op) { return describe(op); }, row.op);
  std::string shapes;
  for (size_t i = 0; i < std::min(row.inputs.size(), d.shown); i++)
    shapes += (i ? " x " : " ") + row.inputs[i].shape.str() + (row.inputs[i].parameter ? " trained" : "");
  return lorafuse::name_of(row.op) + d.attributes + shapes + row.label;
}

std::string name_of(const Row& row) {
  DType dtype = DType::f32;
  for (const Input& input : row.inputs)
    if (input.dtype == DType::f16 || input.dtype == DType::bf16) dtype = input.dtype;
  return shapes_of(row) + " " + lorafuse::name_of(dtype);
}

}  // namespace

void op_row(Row row) {
  const auto shared = std::make_shared<const Row>(std::move(row));
  for (const std::string& variant : variants())
    for (int threads = 1; threads <= 3; threads++)
      test_case(text(name_of(*shared), " ", label(variant), " ", threads, threads == 1 ? " thread" : " threads"),
                [=] { check(shared, variant, threads); });
  // Rows that differ only in how the CPU holds its weights are one on the GPU.
  static std::set<std::string> on_gpu;
  if (!on_gpu.insert(shapes_of(*shared)).second) return;
  for (DType type : gpu_types()) {
    const Target target{true, type};
    if (test_runner::quick() && !widens_coverage([&] { launch(*shared, without_trials(*shared, target), nullptr, target, *gpu()); }))
      continue;
    test_case(text(shapes_of(*shared), " gpu ", lorafuse::name_of(type)), [=] { check_on_gpu(shared, type); });
  }
}

}  // namespace lorafuse::test
