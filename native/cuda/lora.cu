// Linear layers with their adapters, y = x·wᵀ + s·(x·downᵀ)·upᵀ, in one pass over x.
//
// The last columns of a block's tile are rows of `down`: the main loop that sums x·wᵀ sums t = x·downᵀ beside it. Then t, rounded to T,
// becomes the left operand of one or two more steps, whose right operand is `up`. Layers that share x (q, k, v) share a launch; for the
// gradient of x the terms follow each other in the same sums.
//
// A GEGLU after a layer, and its gradient before one, are the end of the same kernel, also where the layer has no adapter (rank 0).
#include "../graph/lora.h"

#include "gemm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kMostTerms = 4, kMostRank = 64;  // t fits the two buffers of the main loop

template <class T>
struct LoraTerm {
  Matrix x, w, down, up;  // down, up: float
  int rank;
  float t_scale;
  T* t;  // [M, rank]
  bool t_in_chunks;
  Store<T> store;
  __host__ __device__ int columns(bool transposed) const { return transposed ? w.length : w.lines; }  // of the product
};

template <class T>
struct LoraOperands {
  LoraTerm<T> terms[kMostTerms];
  int count, m;
  int width;  // columns of y in a tile; the rest is t
  bool sum;
  T* gated;         // [M, F] of a GEGLU
  const T* gate_x;  // [M, 2F] of its gradient
};

// x, and w beside down: each warp moves chunks of only one of them, so that none waits for the conversion of down.
// kPaired, for a GEGLU: a tile has 8 columns of a, the same 8 of b, the next 8 of a, …; `column` is the first one's.
template <class AnyTile, bool kTransposed, bool kPaired>
struct LoraLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static_assert(Tile::kColumns == 128 && sizeof(T) == 2 && !(kTransposed && kPaired));
  static __device__ constexpr bool transposed_a() { return false; }
  static __device__ constexpr bool transposed_b() { return kTransposed; }

  __device__ LoraLoader(const LoraTerm<T>& term, int row, int column, int width) : term_(term), column_(column), width_(width) {
    from_x_.begin(term.x, false, row, 0);
    const Place p = place_of_chunk(threadIdx.x);
    at_ = kTransposed ? p.k * term.w.length + column + p.n : column_of(p.n) * term.w.length + p.k;
  }
  __device__ int steps() const { return ceil_div(term_.x.length, kDepth<T>); }

  template <class To>
  __device__ void a(int v, const To& to) const { from_x_.copy(term_.x, false, k_, v, to); }
  template <class To>
  __device__ void b(int v, const To& to) const {
    const Place p = place_of_chunk(chunk_of_thread(v));
    if (p.n >= width_)
      return fetch_floats<T>(term_.down, kTransposed ? k_ + p.k : p.n - width_, kTransposed ? p.n - width_ : k_ + p.k, to);
    const bool there = column_of(p.n) < term_.columns(kTransposed) && k_ + p.k < term_.x.length;
    to.copy(static_cast<const T*>(term_.w.data) + at_ + (kPaired ? 32 : 64) * v * (kTransposed ? 1 : term_.w.length), there);
  }
  __device__ void next() {
    k_ += kDepth<T>;
    from_x_.next(term_.x, false);
    at_ += kTransposed ? kDepth<T> * term_.w.length : kDepth<T>;
  }
  static __device__ __forceinline__ int place_b(int v) {
    const Place p = place_of_chunk(threadIdx.x);
    constexpr int kLine = kLineChunks<T, 128, kTransposed>;
    return kTransposed ? place<kLine>(p.k, p.n / 8) + 8 * v : place<kLine>(p.n, p.k / 8) + kThreads * v;
  }

  // Chunk v of `up` for the ranks from r.
  __device__ uint4 up(int v, int r) const {
    const Place p = place_of_chunk(chunk_of_thread(v));
    uint4 chunk{};
    const int n = column_of(p.n), k = r + p.k;
    if (p.n < width_) fetch_floats<T>(term_.up, kTransposed ? k : n, kTransposed ? n : k, ToRegister{chunk});
    return chunk;
  }

 private:
  struct Place {
    int n, k;  // column of the tile and k of the step
  };
  // Of the tile's chunk q: a warp has 64 bytes of 8 columns, or where transposed two chunks of 16 k's, 8 of them one after the other as
  // banks want it.
  static __device__ __forceinline__ Place place_of_chunk(unsigned q) {
    if (!kTransposed) return {static_cast<int>(q / 4), static_cast<int>(q % 4 * 8)};
    return {static_cast<int>(q / 64 * 16 + q / 8 % 2 * 8), static_cast<int>(q / 32 % 2 * 16 + q / 16 % 2 * 8 + q % 8)};
  }

  // Of y, for column n of the tile.
  __device__ __forceinline__ int column_of(int n) const {
    if constexpr (kPaired) return column_ + n / 16 * 8 + n % 8 + (n & 8 ? term_.w.lines / 2 : 0);
    else return column_ + n;
  }

  const LoraTerm<T>& term_;
  int column_, width_, k_ = 0, at_;
  Walk<T, Tile::kRows> from_x_;
};

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
    T* to = term.t + (row + r) * term.rank + k;
    if (term.t_in_chunks) {
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
    const Store<T>& store = o.terms[term].store;
    const int n = o.terms[term].columns(kTransposed);

    Tile tile;
    for (; term < end; term++) {
      const LoraTerm<T>& now = o.terms[term];
      LoraLoader<Tile, kTransposed, kPaired> loader(now, row, column, o.width);
      multiply_steps(tile, loader, loader.steps(), shared);
      tile.take_columns(o.width, now.t_scale, shared.chunks[0], Buffers<Tile>::kStride);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>)
#pragma unroll 1
        for (int v = 0; v < Buffers<Tile>::kB / kThreads; v++)
          shared.chunks[r / kDepth<T>][place_of(loader, v)] = loader.up(v, r);
      __syncthreads();
      if (tile_column == 0) store_t<Tile>(now, o.m, row, padded, shared.chunks[0]);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>) {
        multiply_step(tile, loader, shared.chunks[r / kDepth<T>], kTransposed, min(padded - r, kDepth<T>));
      }
      __syncthreads();
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

template <class T, class Product>
void run_fused(const Product& op, Context& c) {
  constexpr size_t k = kOperands<Product>;
  const auto& terms = terms_of(op);
  const size_t count = terms.size(), products = products_of(op);
  const bool transposed = terms[0].transposed;
  LoraOperands<T> o{{}, static_cast<int>(count), static_cast<int>(c.in(0).shape.rows()), 0, count > products, nullptr, nullptr};
  int rank = 0, columns = 0;
  for (size_t i = 0; i < count; i++) {
    const Tensor &x = c.in(k * i), &w = c.in(k * i + 1), &y = c.out(o.sum ? 0 : i);
    const float* bias = op.bias ? data<const float>(c.in(k * count)) : nullptr;
    LoraTerm<T>& term = o.terms[i];
    term.x = matrix_of<T>(x);
    term.w = matrix_of<T>(w);
    term.store = store_to<T>(y, bias, op.residual ? &c.last_in() : nullptr);
    CHECK(term.x.in_chunks && term.w.in_chunks && (op.gate == Gate::none || term.store.in_chunks), "NOT_SUPPORTED",
          "[lora_mat_mul] expected x, w, y and bias at multiples of 16 bytes");
    if constexpr (kAdapted<Product>) {
      const float scale = terms[i].scale;
      const Tensor& t = c.out(products + i);
      term.down = matrix_of<T>(c.in(k * i + 2));
      term.up = matrix_of<T>(c.in(k * i + 3), transposed ? 1 : scale);
      term.rank = static_cast<int>(t.shape[-1]);
      term.t_scale = transposed ? scale : 1;
      term.t = data<T>(t);
      term.t_in_chunks = in_chunks<T>(t);
      rank = std::max(rank, term.rank);
    }
  }
  if (op.gate == Gate::geglu) o.gated = data<T>(c.tensors[c.node.outputs.back()]);
  if (op.gate == Gate::geglu_grad) o.gate_x = data<const T>(c.last_in());
  o.width = 128 - ceil_div(rank, 16) * 16;
  for (size_t i = 0; i < products; i++) columns += ceil_div(o.terms[i].columns(transposed), o.width);
  const auto go = [&](auto tile) {
    using Tile = typename decltype(tile)::type;
    const int rows = ceil_div(o.m, Tile::kRows);
    auto* kernel = transposed ? lora_kernel<Tile, true, Gate::none> : lora_kernel<Tile, false, Gate::none>;
    if (op.gate == Gate::geglu) kernel = lora_kernel<Tile, false, Gate::geglu>;
    if (op.gate == Gate::geglu_grad) kernel = lora_kernel<Tile, true, Gate::geglu_grad>;
    launch("lora_mat_mul", kernel, rows * columns, kThreads, 0, c.stream, o, rows, columns);
  };
  // The taller tile is the more efficient one, unless it leaves multiprocessors idle.
  const auto time = [&](int tile_rows) { return ceil_div(ceil_div(o.m, tile_rows) * columns, c.card.multiprocessors) * tile_rows; };
  if (time(128) <= 1.15 * time(64)) go(std::type_identity<TensorCoreTile<T, 128, 128, 2, true>>());
  else go(std::type_identity<TensorCoreTile<T, 64, 128, 2, true>>());
}

template <class Product>
void run_either(const Product& op, Context& c) {
  if (is_fused(op, [&](size_t i) -> const Tensor& { return c.in(i); })) {
    if (c.in(0).dtype == DType::f16) run_fused<__half>(op, c);
    else run_fused<__nv_bfloat16>(op, c);
    return;
  }
  run_as_products(op, c.node, c.tensors, c.workspace, [&](const Node& node, std::span<const Tensor> tensors, void* workspace) {
    Context one{c.card, c.stream, workspace, node, tensors};
    std::visit([&](const auto& part) { run(part, one); }, node.op);
  });
}

template <class Product>
size_t workspace_of_either(const Product& op, std::span<const Value> in, const Card& card) {
  if (is_fused(op, [&](size_t i) -> const Value& { return in[i]; })) return 0;
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
      bytes = std::max(bytes, workspace_bytes(*product, inputs, card));
    }
  const Shape& x = in.back().shape;  // where there is dy, of its Geglu
  return bytes + dy_bytes(op.gate, x.with_channels(x[-1] / 2), in[0].dtype);
}

}  // namespace

size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> in, const Card& card) { return workspace_of_either(op, in, card); }
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> in, const Card& card) { return workspace_of_either(op, in, card); }
void run(const LoraMatMul& op, Context& c) { run_either(op, c); }
void run_gated(const MatMul& op, Context& c) { run_either(op, c); }

}  // namespace lorafuse::cuda
