// Linear layers with their adapters, y = x·wᵀ + s·(x·downᵀ)·upᵀ, in one pass over x.
//
// The last columns of a block's tile are rows of `down`: the main loop that sums x·wᵀ sums t = x·downᵀ beside it. Then t, rounded to T,
// becomes the left operand of one or two more steps, whose right operand is `up`. Layers that share x (q, k, v) share a launch. For the
// gradient of x, `up` and `down` change places, and the layers are terms that follow each other in the same sums. Where blocks are few,
// K is split: each split multiplies its own share of t by `up`, and the f32 sums of all y and t are added in order (reduce_lora_splits).
//
// The same kernel ends in a GEGLU after a layer, or in its gradient, also where the layer has no adapter (rank 0).
#include "../graph/lowering.h"

#include "lora_loader.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kSplitRows = 64;  // of the tiles for which K may be split

// t [rows of the tile, rank], the left operand of the steps, to global memory.
template <class Tile, class T>
__device__ __forceinline__ void store_t(const LoraTerm<T>& term, int m, int row, int padded, const uint4* a) {
  const int per_row = padded / 8;
#pragma unroll 1
  for (int q = threadIdx.x; q < Tile::kRows * per_row; q += kThreads) {
    const int r = q / per_row, k = q % per_row * 8;
    if (row + r >= m || k >= term.rank) continue;
    union {
      uint4 chunk;
      T elements[8];
    } u;
    u.chunk = a[k / kDepth<T> * Buffers<Tile>::kStride + swizzle<kLineBytes / 16>(r, k % kDepth<T> / 8)];
    T* to = term.t.y + (row + r) * term.rank + k;
    if (term.t.in_chunks) {
      *reinterpret_cast<uint4*>(to) = u.chunk;
    } else {
#pragma unroll
      for (int e = 0; e < 8; e++)
        if (k + e < term.rank) to[e] = u.elements[e];
    }
  }
}

template <class Tile, bool kTransposed, Gate kGate>
__global__ void __launch_bounds__(kThreads, 2) lora_kernel(const LoraOperands<typename Tile::Element> o, int rows, int columns) {
  using T = typename Tile::Element;
  if constexpr (kComputes<T>) {
    __shared__ Buffers<Tile> shared;
    const TileIndex index = tile_of(blockIdx.x, rows, columns);
    const int row = index.row * Tile::kRows, padded = Tile::kColumns - o.width;
    int tile_column = index.column, term = 0;
    if (kGate == Gate::none && !o.sum)
      for (int tiles; tile_column >= (tiles = ceil_div(o.terms[term].columns(kTransposed), o.width)); term++) tile_column -= tiles;
    constexpr bool kPaired = kGate == Gate::geglu;
    const int column = tile_column * o.width / (kPaired ? 2 : 1), end = kGate != Gate::none ? 1 : o.sum ? o.count : term + 1;
    const Store<T>& store = o.terms[term].y;
    const int n = o.terms[term].columns(kTransposed), sum_column = o.terms[term].y_column;
    float* sums = kGate == Gate::none && o.split_sums ? o.split_sums + (static_cast<size_t>(blockIdx.y) * o.m + row) * o.pitch : nullptr;

    Tile tile;
    int step = blockIdx.y * o.steps_per_split, left = o.steps_per_split;
    for (; term < end && left > 0; term++) {
      const LoraTerm<T>& now = o.terms[term];
      const int count = min(now.steps() - step, left);
      if (count <= 0) {
        step -= now.steps();
        continue;
      }
      LoraLoader<Tile, kTransposed, kPaired> loader(now, row, column, o.width, step);
      multiply_steps(tile, loader, count, shared);
      step = 0, left -= count;
      if (sums && tile_column == 0) tile.store_columns(o.width, now.t_scale, sums + now.t_column, o.m - row, o.pitch);
      tile.take_columns(o.width, now.t_scale, shared.chunks[0], Buffers<Tile>::kStride);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>)
#pragma unroll 1
        for (int v = 0; v < Buffers<Tile>::kB / kThreads; v++) shared.chunks[r / kDepth<T>][slot_of(loader, v)] = loader.expand(v, r);
      __syncthreads();
      if (tile_column == 0 && !sums) store_t<Tile>(now, o.m, row, padded, shared.chunks[0]);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>) {
        multiply_step(tile, loader, shared.chunks[r / kDepth<T>], kTransposed, min(padded - r, kDepth<T>));
      }
      __syncthreads();
    }

    if (sums) {
      tile.template for_each_output<4>(shared.chunks[0], [&](int r, int c, auto& v) {
        if (row + r >= o.m || c >= o.width || column + c >= n) return;
        *reinterpret_cast<float4*>(sums + r * o.pitch + sum_column + column + c) = {v[0], v[1], v[2], v[3]};
      });
      return;
    }
    const auto finish = [&](int r, int c, auto& v) {
      if constexpr (kPaired) c /= 2;
      if (row + r >= o.m || c >= o.width / (kPaired ? 2 : 1) || column + c >= n / (kPaired ? 2 : 1)) return;
      if constexpr (kGate == Gate::geglu) StoreGeglu<T>{store.y, o.gated, store.bias, n / 2}(row + r, column + c, v);
      else if constexpr (kGate == Gate::geglu_grad) StoreGegluGrad<T>{o.gate_x, store.y, n}(row + r, column + c, v);
      else store((row + r) * n + column + c, column + c, v);
    };
    tile.template for_each_output<(kPaired ? 2 : 1) * Store<T>::kCount>(shared.chunks[0], finish);
  }
}

// The sums of one y or t: their first column among a split's sums, and the splits that have a share of them.
template <class T>
struct Segment {
  int column, first, last;
  Store<T> store;
};
template <class T>
struct Segments {
  Segment<T> at[2 * kMostTerms];
  int count;
};

// split_sums [splits, m, pitch], added in order; a thread has four columns.
template <class T>
__global__ void __launch_bounds__(256) reduce_lora_splits(const float* split_sums, int m, int pitch, const Segments<T> segments) {
  const int at = blockIdx.x * 256 + threadIdx.x, row = at / (pitch / 4);
  if (row >= m) return;
  int column = at % (pitch / 4) * 4, i = 0;
  while (i + 1 < segments.count && column >= segments.at[i + 1].column) i++;
  const Segment<T>& segment = segments.at[i];
  float sum[4] = {};
  for (int s = segment.first; s <= segment.last; s++) {
    const float4 v = *reinterpret_cast<const float4*>(split_sums + (static_cast<size_t>(s) * m + row) * pitch + column);
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
  column -= segment.column;
  if (column < segment.store.n) segment.store(row * segment.store.n + column, column, sum);
}

// The kernel computes a LoraMatMul, a LoraMatMulGrad, or a MatMul with a gate, which has no adapter.
template <class Product>
constexpr bool kAdapted = !std::is_same_v<Product, MatMul>;
template <class Product>
size_t count_of(const Product& op) {
  if constexpr (kAdapted<Product>) return op.scales.size();
  else return op.pairs.size();
}
template <class Product>
size_t products_of(const Product& op) {
  if constexpr (kAdapted<Product>) return op.products();
  else return 1;
}
template <class Product>
bool is_transposed(const Product& op) {
  if constexpr (kAdapted<Product>) return op.transposed;
  else return op.pairs[0].transposed;
}

// Whether the kernel can compute `op`. It must be known when memory is planned, so in(i) is input i as a Value or as a Tensor.
template <class Product, class Inputs>
bool is_fused(const Product& op, Inputs in) {
  const bool transposed = is_transposed(op);
  const Gate gate = op.epilogue.gate;
  if (in(0).dtype == DType::f32 || count_of(op) > (gate == Gate::none ? kMostTerms : 1)) return false;
  for (size_t i = 0; i < count_of(op); i++) {
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
template <class Product, class Inputs>
LoraPlan plan_of(const Product& op, Inputs in, const Gpu& gpu) {
  const size_t count = count_of(op), products = products_of(op);
  const bool transposed = is_transposed(op), sum = count > products;
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

template <class T, class Product>
LoraOperands<T> operands_of(const Product& op, const LoraPlan& plan, Context& c) {
  const size_t count = count_of(op), products = products_of(op);
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
      term.expand = matrix_of<T>(c.in(op.expand(i)), op.transposed ? 1 : op.scales[i]);
      term.rank = static_cast<int>(t.shape[-1]);
      term.t_scale = op.transposed ? op.scales[i] : 1;
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
template <class T>
Segments<T> segments_of(const LoraOperands<T>& o, int products, int splits) {
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

template <class T, class Product>
void run_fused(const Product& op, Context& c) {
  const LoraPlan plan = plan_of(op, [&](size_t i) -> const Tensor& { return c.in(i); }, c.gpu);
  const LoraOperands<T> o = operands_of<T>(op, plan, c);
  const auto go = [&](auto tile) {
    using Tile = typename decltype(tile)::type;
    const int rows = ceil_div(o.m, Tile::kRows), columns = static_cast<int>(plan.columns);
    auto* kernel = is_transposed(op) ? lora_kernel<Tile, true, Gate::none> : lora_kernel<Tile, false, Gate::none>;
    if (o.gated) kernel = lora_kernel<Tile, false, Gate::geglu>;
    if (o.gate_x) kernel = lora_kernel<Tile, true, Gate::geglu_grad>;
    launch(op.name, kernel, dim3(rows * columns, plan.splits), kThreads, 0, c.stream, o, rows, columns);
  };
  if (plan.tall) go(std::type_identity<TensorCoreTile<T, 128, 128, 2, true>>());
  else go(std::type_identity<TensorCoreTile<T, kSplitRows, 128, 2, true>>());
  if (o.split_sums)
    launch("reduce_lora_splits", reduce_lora_splits<T>, ceil_div(o.m * (o.pitch / 4), 256), 256, 0, c.stream, o.split_sums, o.m, o.pitch,
           segments_of(o, static_cast<int>(products_of(op)), plan.splits));
}

template <class Product>
void run_either(const Product& op, Context& c) {
  if (is_fused(op, [&](size_t i) -> const Tensor& { return c.in(i); })) {
    if (c.in(0).dtype == DType::f16) run_fused<__half>(op, c);
    else run_fused<__nv_bfloat16>(op, c);
    return;
  }
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    run_node(node, tensors, c.gpu, c.stream, workspace);
  });
}

template <class Product>
size_t workspace_of_either(const Product& op, std::span<const Value> in, const Gpu& gpu) {
  const auto input = [&](size_t i) -> const Value& { return in[i]; };
  if (is_fused(op, input)) return plan_of(op, input, gpu).bytes();
  // As plain products: they read the inputs and every t.
  std::vector<Value> values(in.begin(), in.end());
  values.resize(in.size() + products_of(op));
  if constexpr (kAdapted<Product>)
    for (size_t i = 0; i < count_of(op); i++)
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

template <>
void run(const LoraMatMul& op, Context& c) {
  run_either(op, c);
}
template <>
void run(const LoraMatMulGrad& op, Context& c) {
  run_either(op, c);
}
void run_gated(const MatMul& op, Context& c) { run_either(op, c); }

template <>
size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> in, const Gpu& gpu) {
  return workspace_of_either(op, in, gpu);
}
template <>
size_t workspace_bytes(const LoraMatMulGrad& op, std::span<const Value> in, const Gpu& gpu) {
  return workspace_of_either(op, in, gpu);
}
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of_either(op, in, gpu); }

}  // namespace lorafuse::cuda
