// Linear layers with their adapters, and products that end in a GEGLU: how the kernel of lora_kernel.cuh is launched for them. Products
// that it cannot compute run as plain ones.
#include "../graph/lowering.h"

#include "lora_kernel.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kSplitRows = 64;  // of the tiles for which K may be split

// The kernel computes a LoraMatMul, a LoraMatMulGrad, or a MatMul with a gate, which has no adapter.
template <class Product> constexpr bool kAdapted = !std::is_same_v<Product, MatMul>;
struct Layers {
  size_t count, products;  // pairs of x and w; how many y
  bool transposed;
};
template <class Adapted> Layers layers_of(const Adapted& op) { return {op.scales.size(), op.products(), op.transposed}; }
Layers layers_of(const MatMul& op) { return {op.pairs.size(), 1, op.pairs[0].transposed}; }

// Whether the kernel can compute `op`. It must be known when memory is planned, so in(i) is input i as a Value or as a Tensor.
template <class Product, class Inputs> bool is_fused(const Product& op, Inputs in) {
  const auto [count, products, transposed] = layers_of(op);
  const Gate gate = op.epilogue.gate;
  if (in(0).dtype == DType::f32 || count > (gate == Gate::none ? kMostTerms : 1)) return false;
  for (size_t i = 0; i < count; i++) {
    const auto &x = in(op.x(i)), &w = in(op.w(i));
    const bool chunks = x.shape[-1] % kVector<__half> == 0 && w.shape[-1] % kVector<__half> == 0 && w.dtype == x.dtype;
    if (!chunks || x.shape.rows() != in(0).shape.rows()) return false;
    if constexpr (kAdapted<Product>) {
      if (in(op.reduce(i)).shape[transposed] > kMostRank) return false;
    } else {
      if (op.pairs[i].scale != 1) return false;
    }
  }
  const int64_t columns = in(1).shape[transposed];
  if (gate == Gate::geglu) return !transposed && columns % (2 * kVector<__half>) == 0;
  return gate == Gate::none || transposed;
}

// How blocks share the work of a fused product.
struct LoraPlan {
  int rank = 0, width = 0;     // the largest rank, and the columns of a tile's 128 that its padding leaves
  int64_t m = 0, columns = 0;  // rows, and tiles beside each other
  int64_t pitch = 0;           // columns of the splits' sums
  int steps_per_split = 0, splits = 1;
  bool tall = false;  // tiles of 128 rows
  size_t bytes() const { return splits > 1 ? splits * m * pitch * sizeof(float) : 0; }
};

// The plan of the least cost: see choose() in gemm.cuh.
template <class Product, class Inputs> LoraPlan plan_of(const Product& op, Inputs in, const Gpu& gpu) {
  const auto [count, products, transposed] = layers_of(op);
  const bool sum = count > products;
  LoraPlan plan{.m = in(0).shape.rows()};
  int64_t steps = 0;
  for (size_t i = 0; i < count; i++) {
    if constexpr (kAdapted<Product>) plan.rank = std::max(plan.rank, static_cast<int>(in(op.reduce(i)).shape[transposed]));
    const int64_t own = ceil_div<int64_t>(in(op.x(i)).shape[-1], kDepth<__half>);
    steps = sum ? steps + own : std::max(steps, own);
  }
  const int padded = ceil_div(plan.rank, 16) * 16;
  plan.width = 128 - padded;
  for (size_t i = 0; i < products; i++) {
    const int64_t n = in(op.w(i)).shape[transposed];
    plan.columns += ceil_div<int64_t>(n, plan.width);
    plan.pitch += ceil_div<int64_t>(n, 8) * 8;
  }
  plan.pitch += static_cast<int64_t>(count) * padded;
  double least = 1e300;
  const auto consider = [&](bool tall, int64_t per_split) {
    const int64_t rows = tall ? 128 : kSplitRows, splits = ceil_div(steps, per_split);
    const double block = static_cast<double>((per_split + ceil_div(padded, 32)) * kDepth<__half> * rows) * 128 / (tall ? 1 : 0.87);
    const int64_t blocks = ceil_div(plan.m, rows) * plan.columns * splits;
    const double cost = time_of(blocks, block, gpu) + time_of_splits(split_floats(splits, plan.m * plan.pitch), gpu);
    if (cost >= least) return;
    least = cost, plan.tall = tall, plan.steps_per_split = static_cast<int>(per_split), plan.splits = static_cast<int>(splits);
  };
  consider(true, steps);
  const int64_t most_splits = op.epilogue.gate == Gate::none && kAdapted<Product> ? std::min<int64_t>(steps, kMostSplits) : 1;
  for (int64_t splits = 1; splits <= most_splits; splits++) consider(false, ceil_div(steps, splits));
  return plan;
}

template <class T, class Product> LoraOperands<T> operands_of(const Product& op, const LoraPlan& plan, Context& c) {
  const auto [count, products, transposed] = layers_of(op);
  const Gate gate = op.epilogue.gate;
  LoraOperands<T> o{.terms = {},
                    .count = static_cast<int>(count),
                    .m = static_cast<int>(plan.m),
                    .width = plan.width,
                    .sum = count > products,
                    .gated = gate == Gate::geglu ? data<T>(c.out(c.node.outputs.size() - 1)) : nullptr,
                    .gate_x = gate == Gate::geglu_grad ? data<const T>(c.in(gate_input(op))) : nullptr,
                    .split_sums = plan.splits > 1 ? static_cast<float*>(c.workspace) : nullptr,
                    .pitch = static_cast<int>(plan.pitch),
                    .steps_per_split = plan.steps_per_split};
  int sum_column = 0;
  for (size_t i = 0; i < count; i++) {
    LoraTerm<T>& term = o.terms[i];
    term.x = matrix_of<T>(c.in(op.x(i)));
    term.w = matrix_of<T>(c.in(op.w(i)));
    term.y = store_to<T>(c.out(o.sum ? 0 : i), c.in_or_null(bias_input(op)), c.in_or_null(residual_input(op)));
    CHECK(term.x.in_chunks && term.w.in_chunks && (gate == Gate::none || term.y.in_chunks), "NOT_SUPPORTED", "[", op.name,
          "] expected x, w, y and bias at multiples of 16 bytes");
    if constexpr (kAdapted<Product>) {
      const Tensor& t = c.out(products + i);
      term.reduce = matrix_of<T>(c.in(op.reduce(i)));
      term.expand = matrix_of<T>(c.in(op.expand(i)), transposed ? 1 : op.scales[i]);
      term.rank = static_cast<int>(t.shape[-1]);
      term.t_scale = transposed ? op.scales[i] : 1;
      term.t = store_to<T>(t, nullptr, nullptr);
    }
    if (i >= products) continue;
    term.y_column = sum_column;
    sum_column += ceil_div(term.y.n, 8) * 8;
  }
  for (int i = 0; i < o.count; i++) o.terms[i].t_column = sum_column + i * (128 - plan.width);
  return o;
}

// The columns of the splits' sums: every y, then every t.
template <class T> Segments<T> segments_of(const LoraOperands<T>& o, int products, int splits) {
  Segments<T> segments{{}, 0};
  for (int i = 0; i < products; i++) segments.at[segments.count++] = {o.terms[i].y_column, 0, splits - 1, o.terms[i].y};
  for (int i = 0, step = 0; i < o.count; i++) {
    const LoraTerm<T>& term = o.terms[i];
    const int end = step + ceil_div(term.x.length, kDepth<T>);
    segments.at[segments.count++] = {term.t_column, step / o.steps_per_split, (end - 1) / o.steps_per_split, term.t};
    step = o.sum ? end : 0;
  }
  return segments;
}

template <class T, class Product> void run_fused(const Product& op, Context& c) {
  const LoraPlan plan = plan_of(op, [&](size_t i) -> const Tensor& { return c.in(i); }, c.gpu);
  const LoraOperands<T> o = operands_of<T>(op, plan, c);
  const Layers layers = layers_of(op);
  const auto go = [&]<class Tile>(std::type_identity<Tile>) {
    const int rows = ceil_div(o.m, Tile::kRows), columns = static_cast<int>(plan.columns);
    auto* kernel = layers.transposed ? lora_kernel<Tile, true, Gate::none> : lora_kernel<Tile, false, Gate::none>;
    if (o.gated) kernel = lora_kernel<Tile, false, Gate::geglu>;
    if (o.gate_x) kernel = lora_kernel<Tile, true, Gate::geglu_grad>;
    launch(op.name, kernel, dim3(rows * columns, plan.splits), kThreads, 0, c.stream, o, rows, columns);
  };
  if (plan.tall) go(std::type_identity<TensorCoreTile<T, 128, 128, 2, true>>());
  else go(std::type_identity<TensorCoreTile<T, kSplitRows, 128, 2, true>>());
  if (o.split_sums)
    launch("reduce_lora_splits", reduce_lora_splits<T>, ceil_div(o.m * (o.pitch / 4), 256), 256, 0, c.stream, o.split_sums, o.m, o.pitch,
           segments_of(o, static_cast<int>(layers.products), plan.splits));
}

template <class Product> void run_either(const Product& op, Context& c) {
  if (is_fused(op, [&](size_t i) -> const Tensor& { return c.in(i); })) {
    if (c.in(0).dtype == DType::f16) run_fused<__half>(op, c);
    else run_fused<__nv_bfloat16>(op, c);
    return;
  }
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    run_node(node, tensors, c.gpu, c.stream, workspace);
  });
}

template <class Product> size_t workspace_of_either(const Product& op, std::span<const Value> in, const Gpu& gpu) {
  const auto input = [&](size_t i) -> const Value& { return in[i]; };
  if (is_fused(op, input)) return plan_of(op, input, gpu).bytes();
  // As plain products: they read the inputs and every t.
  std::vector<Value> values(in.begin(), in.end());
  values.resize(in.size() + layers_of(op).products);
  if constexpr (kAdapted<Product>)
    for (size_t i = 0; i < op.scales.size(); i++)
      values.push_back({"", in[op.x(i)].shape.with_channels(in[op.reduce(i)].shape[op.transposed]), in[0].dtype, Storage::activation});
  if (op.epilogue.gate == Gate::geglu) values.emplace_back();
  Node node{op, std::vector<ValueId>(in.size()), std::vector<ValueId>(values.size() - in.size())};
  size_t bytes = 0;
  for (const Node& part : as_products(op, node))
    if (const auto* product = std::get_if<MatMul>(&part.op)) {
      std::vector<Value> inputs;
      for (ValueId v : part.inputs) inputs.push_back(values[v]);
      bytes = std::max(bytes, workspace_bytes(*product, inputs, gpu));
    }
  return bytes + dy_bytes(op.epilogue.gate, in.back().shape, in[0].dtype);
}

}  // namespace

template <> void run(const LoraMatMul& op, Context& c) { run_either(op, c); }
template <> void run(const LoraMatMulGrad& op, Context& c) { run_either(op, c); }
void run_gated(const MatMul& op, Context& c) { run_either(op, c); }

template <> size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> in, const Gpu& gpu) {
  return workspace_of_either(op, in, gpu);
}
template <> size_t workspace_bytes(const LoraMatMulGrad& op, std::span<const Value> in, const Gpu& gpu) {
  return workspace_of_either(op, in, gpu);
}
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of_either(op, in, gpu); }

}  // namespace lorafuse::cuda
