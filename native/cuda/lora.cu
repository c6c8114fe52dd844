// Linear layers with their adapters, y = x·wᵀ + s·(x·downᵀ)·upᵀ, in one pass over x.
//
// The last columns of a block's tile are rows of `down`: the main loop that sums x·wᵀ sums t = x·downᵀ beside it. Then t, rounded to T,
// becomes the left operand of one or two more steps, whose right operand is `up`. Layers that share x (q, k, v) share a launch; for the
// gradient of x the terms follow each other in the same sums. Where blocks are few, K is split: each part multiplies its own share of t
// by `up`, and the f32 sums of all y and t are added in order (reduce_lora_parts).
//
// A GEGLU after a layer, and its gradient before one, are the end of the same kernel, also where the layer has no adapter (rank 0).
#include "../graph/lora.h"

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
    u.chunk = a[k / kDepth<T> * Buffers<Tile>::kStride + place<kLineBytes / 16>(r, k % kDepth<T> / 8)];
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
    const int n = o.terms[term].columns(kTransposed), part_column = o.terms[term].y_column;
    float* part = kGate == Gate::none && o.parts ? o.parts + (static_cast<size_t>(blockIdx.y) * o.m + row) * o.pitch : nullptr;

    Tile tile;
    int step = blockIdx.y * o.steps_per_part, left = o.steps_per_part;
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
      if (part && tile_column == 0) tile.store_columns(o.width, now.t_scale, part + now.t_column, o.m - row, o.pitch);
      tile.take_columns(o.width, now.t_scale, shared.chunks[0], Buffers<Tile>::kStride);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>)
#pragma unroll 1
        for (int v = 0; v < Buffers<Tile>::kB / kThreads; v++) shared.chunks[r / kDepth<T>][place_of(loader, v)] = loader.up(v, r);
      __syncthreads();
      if (tile_column == 0 && !part) store_t<Tile>(now, o.m, row, padded, shared.chunks[0]);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>) {
        multiply_step(tile, loader, shared.chunks[r / kDepth<T>], kTransposed, min(padded - r, kDepth<T>));
      }
      __syncthreads();
    }

    if (part) {
      tile.template for_each_output<4>(shared.chunks[0], [&](int r, int c, auto& v) {
        if (row + r >= o.m || c >= o.width || column + c >= n) return;
        *reinterpret_cast<float4*>(part + r * o.pitch + part_column + column + c) = {v[0], v[1], v[2], v[3]};
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

// The sums of a y or t: columns of the parts, and the parts that have a share of it.
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

// parts [parts, m, pitch], added in order; a thread has four columns.
template <class T>
__global__ void __launch_bounds__(256) reduce_lora_parts(const float* parts, int m, int pitch, const Segments<T> segments) {
  const int at = blockIdx.x * 256 + threadIdx.x, row = at / (pitch / 4);
  if (row >= m) return;
  int column = at % (pitch / 4) * 4, i = 0;
  while (i + 1 < segments.count && column >= segments.at[i + 1].column) i++;
  const Segment<T>& segment = segments.at[i];
  float sum[4] = {};
  for (int p = segment.first; p <= segment.last; p++) {
    const float4 v = *reinterpret_cast<const float4*>(parts + (static_cast<size_t>(p) * m + row) * pitch + column);
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
  column -= segment.column;
  if (column < segment.store.n) segment.store(row * segment.store.n + column, column, sum);
}

// A LoraMatMul or a MatMul with a gate: a term has four operands or two.
template <class Product>
constexpr bool kAdapted = std::is_same_v<Product, LoraMatMul>;
template <class Product>
constexpr size_t kOperands = kAdapted<Product> ? 4 : 2;
const std::vector<LoraMatMul::Term>& terms_of(const LoraMatMul& op) { return op.terms; }
const std::vector<MatMul::Pair>& terms_of(const MatMul& op) { return op.pairs; }
size_t products_of(const LoraMatMul& op) { return op.products(); }
size_t products_of(const MatMul&) { return 1; }

// Whether the kernel computes it, by what is known when memory is planned; in(i) is input i, a Value or a Tensor.
template <class Product, class Inputs>
bool is_fused(const Product& op, Inputs in) {
  constexpr size_t k = kOperands<Product>;
  const auto& terms = terms_of(op);
  const bool transposed = terms[0].transposed;
  if (in(0).dtype == DType::f32 || terms.size() > (op.gate == Gate::none ? kMostTerms : 1)) return false;
  for (size_t i = 0; i < terms.size(); i++) {
    const auto &x = in(k * i), &w = in(k * i + 1);
    const bool chunks = x.shape[-1] % kVector<__half> == 0 && w.shape[-1] % kVector<__half> == 0 && w.dtype == x.dtype;
    if (!chunks || terms[i].transposed != transposed || x.shape.rows() != in(0).shape.rows()) return false;
    if (kAdapted<Product> ? in(k * i + 2).shape[transposed] > kMostRank : terms[i].scale != 1) return false;
  }
  const int64_t columns = in(1).shape[transposed];
  if (op.gate == Gate::geglu) return !transposed && columns % (2 * kVector<__half>) == 0;
  return op.gate == Gate::none || transposed;
}

// How blocks share the work of a fused product.
struct LoraPlan {
  int rank = 0, width = 0;     // the largest rank, and what its padding leaves of a tile's 128 columns
  int64_t m = 0, columns = 0;  // rows, and tiles beside each other
  int64_t pitch = 0;           // columns of the parts
  int steps_per_part = 0, parts = 1;
  bool tall = false;  // tiles of 128 rows
  size_t bytes() const { return parts > 1 ? parts * m * pitch * sizeof(float) : 0; }
};

// The plan that should take the least time: see choose() in gemm.cuh.
template <class Product, class Inputs>
LoraPlan plan_of(const Product& op, Inputs in, const Gpu& gpu) {
  constexpr size_t k = kOperands<Product>;
  const size_t count = terms_of(op).size(), products = products_of(op);
  const bool transposed = terms_of(op)[0].transposed, sum = count > products;
  LoraPlan plan{.m = in(0).shape.rows()};
  int64_t steps = 0;
  for (size_t i = 0; i < count; i++) {
    if (kAdapted<Product>) plan.rank = std::max(plan.rank, static_cast<int>(in(k * i + 2).shape[transposed]));
    const int64_t own = ceil_div<int64_t>(in(k * i).shape[-1], kDepth<__half>);
    steps = sum ? steps + own : std::max(steps, own);
  }
  const int padded = ceil_div(plan.rank, 16) * 16;
  plan.width = 128 - padded;
  for (size_t i = 0; i < products; i++) {
    const int64_t n = in(k * i + 1).shape[transposed];
    plan.columns += ceil_div<int64_t>(n, plan.width);
    plan.pitch += ceil_div<int64_t>(n, 8) * 8;
  }
  plan.pitch += static_cast<int64_t>(count) * padded;
  double least = 1e300;
  const auto consider = [&](bool tall, int64_t per_part) {
    const int64_t rows = tall ? 128 : kSplitRows, parts = ceil_div(steps, per_part);
    const double block = static_cast<double>((per_part + ceil_div(padded, 32)) * kDepth<__half> * rows) * 128 / (tall ? 1 : 0.87);
    const int64_t blocks = ceil_div(plan.m, rows) * plan.columns * parts;
    const double time = time_of(blocks, block, gpu) + time_of_parts(part_floats(parts, plan.m * plan.pitch), gpu);
    if (time >= least) return;
    least = time, plan.tall = tall, plan.steps_per_part = static_cast<int>(per_part), plan.parts = static_cast<int>(parts);
  };
  consider(true, steps);
  for (int64_t parts = 1; parts <= (op.gate == Gate::none && kAdapted<Product> ? std::min<int64_t>(steps, kMostSplits) : 1); parts++)
    consider(false, ceil_div(steps, parts));
  return plan;
}

template <class T, class Product>
void run_fused(const Product& op, Context& c) {
  constexpr size_t k = kOperands<Product>;
  const auto& terms = terms_of(op);
  const size_t count = terms.size(), products = products_of(op);
  const bool transposed = terms[0].transposed;
  const LoraPlan plan = plan_of(op, [&](size_t i) -> const Tensor& { return c.in(i); }, c.gpu);
  LoraOperands<T> o{{},
                    static_cast<int>(count),
                    static_cast<int>(plan.m),
                    plan.width,
                    count > products,
                    nullptr,
                    nullptr,
                    plan.parts > 1 ? static_cast<float*>(c.workspace) : nullptr,
                    static_cast<int>(plan.pitch),
                    plan.steps_per_part};
  int part_column = 0;
  for (size_t i = 0; i < count; i++) {
    const Tensor &x = c.in(k * i), &w = c.in(k * i + 1), &y = c.out(o.sum ? 0 : i);
    const float* bias = op.bias ? data<const float>(c.in(k * count)) : nullptr;
    LoraTerm<T>& term = o.terms[i];
    term.x = matrix_of<T>(x);
    term.w = matrix_of<T>(w);
    term.y = store_to<T>(y, bias, op.residual ? &c.last_in() : nullptr);
    CHECK(term.x.in_chunks && term.w.in_chunks && (op.gate == Gate::none || term.y.in_chunks), "NOT_SUPPORTED",
          "[lora_mat_mul] expected x, w, y and bias at multiples of 16 bytes");
    if constexpr (kAdapted<Product>) {
      const float scale = terms[i].scale;
      const Tensor& t = c.out(products + i);
      term.down = matrix_of<T>(c.in(k * i + 2));
      term.up = matrix_of<T>(c.in(k * i + 3), transposed ? 1 : scale);
      term.rank = static_cast<int>(t.shape[-1]);
      term.t_scale = transposed ? scale : 1;
      term.t = store_to<T>(t, nullptr, nullptr);
    }
    if (i < products) {
      term.y_column = part_column;
      part_column += ceil_div(term.y.n, 8) * 8;
    }
  }
  if (op.gate == Gate::geglu) o.gated = data<T>(c.tensors[c.node.outputs.back()]);
  if (op.gate == Gate::geglu_grad) o.gate_x = data<const T>(c.last_in());
  // Of the parts: every y, then every t.
  Segments<T> segments{{}, 0};
  for (size_t i = 0; i < products; i++) segments.at[segments.count++] = {o.terms[i].y_column, 0, plan.parts - 1, o.terms[i].y};
  for (int i = 0, step = 0; i < o.count; i++) {
    LoraTerm<T>& term = o.terms[i];
    term.t_column = part_column + i * (128 - plan.width);
    const int end = step + ceil_div(term.x.length, kDepth<T>);
    segments.at[segments.count++] = {term.t_column, step / plan.steps_per_part, (end - 1) / plan.steps_per_part, term.t};
    step = o.sum ? end : 0;
  }
  const auto go = [&](auto tile) {
    using Tile = typename decltype(tile)::type;
    const int rows = ceil_div(o.m, Tile::kRows), columns = static_cast<int>(plan.columns);
    auto* kernel = transposed ? lora_kernel<Tile, true, Gate::none> : lora_kernel<Tile, false, Gate::none>;
    if (op.gate == Gate::geglu) kernel = lora_kernel<Tile, false, Gate::geglu>;
    if (op.gate == Gate::geglu_grad) kernel = lora_kernel<Tile, true, Gate::geglu_grad>;
    launch("lora_mat_mul", kernel, dim3(rows * columns, plan.parts), kThreads, 0, c.stream, o, rows, columns);
  };
  if (plan.tall) go(std::type_identity<TensorCoreTile<T, 128, 128, 2, true>>());
  else go(std::type_identity<TensorCoreTile<T, kSplitRows, 128, 2, true>>());
  if (o.parts)
    launch("reduce_lora_parts", reduce_lora_parts<T>, ceil_div(o.m * (o.pitch / 4), 256), 256, 0, c.stream, o.parts, o.m, o.pitch,
           segments);
}

template <class Product>
void run_either(const Product& op, Context& c) {
  if (is_fused(op, [&](size_t i) -> const Tensor& { return c.in(i); })) {
    if (c.in(0).dtype == DType::f16) run_fused<__half>(op, c);
    else run_fused<__nv_bfloat16>(op, c);
    return;
  }
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    Context one{c.gpu, c.stream, workspace, node, tensors};
    std::visit([&](const auto& part) { run(part, one); }, node.op);
  });
}

template <class Product>
size_t workspace_of_either(const Product& op, std::span<const Value> in, const Gpu& gpu) {
  const auto input = [&](size_t i) -> const Value& { return in[i]; };
  if (is_fused(op, input)) return plan_of(op, input, gpu).bytes();
  // As plain products: what they read are the inputs and every t.
  std::vector<Value> values(in.begin(), in.end());
  values.resize(in.size() + products_of(op));
  if constexpr (kAdapted<Product>)
    for (size_t i = 0; i < op.terms.size(); i++)
      values.push_back({"", in[4 * i].shape.with_channels(in[4 * i + 2].shape[op.terms[i].transposed]), in[0].dtype, Storage::activation});
  if (op.gate == Gate::geglu) values.emplace_back();
  Node node{op, std::vector<ValueId>(in.size()), std::vector<ValueId>(values.size() - in.size())};
  size_t bytes = 0;
  for (const Node& part : as_products(op, node))
    if (const auto* product = std::get_if<MatMul>(&part.op)) {
      std::vector<Value> inputs;
      for (ValueId v : part.inputs) inputs.push_back(values[v]);
      bytes = std::max(bytes, workspace_bytes(*product, inputs, gpu));
    }
  const Shape& x = in.back().shape;  // where there is dy, of its Geglu
  return bytes + dy_bytes(op.gate, x.with_channels(x[-1] / 2), in[0].dtype);
}

}  // namespace

size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of_either(op, in, gpu); }
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of_either(op, in, gpu); }
void run(const LoraMatMul& op, Context& c) { run_either(op, c); }
void run_gated(const MatMul& op, Context& c) { run_either(op, c); }

}  // namespace lorafuse::cuda
