// Linear layers with their adapters, y = x·wᵀ + s·(x·downᵀ)·upᵀ, in one pass over x.
//
// The last columns of a block's tile are rows of `down`: the main loop that sums x·wᵀ sums t = x·downᵀ beside it. Then t, rounded to T,
// becomes the left operand of one or two more steps, whose right operand is `up`. Layers that share x (q, k, v) share a launch; for the
// gradient of x the terms follow each other in the same sums.
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
};

template <class T>
struct LoraOperands {
  LoraTerm<T> terms[kMostTerms];
  int count, m;
  int width;  // columns of y in a tile; the rest is t
  bool sum;
};

// x, and w beside down: each warp moves chunks of only one of them, so that none waits for the conversion of down.
template <class AnyTile, bool kTransposed>
struct LoraLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static_assert(Tile::kColumns == 128 && sizeof(T) == 2);
  static __device__ constexpr bool transposed_a() { return false; }
  static __device__ constexpr bool transposed_b() { return kTransposed; }

  __device__ LoraLoader(const LoraTerm<T>& term, int row, int column, int width) : term_(term), column_(column), width_(width) {
    from_x_.begin(term.x, false, row, 0);
    const Place p = place_of_chunk(threadIdx.x);
    at_ = kTransposed ? p.k * term.w.length + column + p.n : (column + p.n) * term.w.length + p.k;
  }
  __device__ int steps() const { return ceil_div(term_.x.length, kDepth<T>); }

  template <class To>
  __device__ void a(int v, const To& to) const { from_x_.copy(term_.x, false, k_, v, to); }
  template <class To>
  __device__ void b(int v, const To& to) const {
    const Place p = place_of_chunk(chunk_of_thread(v));
    if (p.n >= width_)
      return fetch_floats<T>(term_.down, kTransposed ? k_ + p.k : p.n - width_, kTransposed ? p.n - width_ : k_ + p.k, to);
    const bool there = column_ + p.n < (kTransposed ? term_.w.length : term_.w.lines) && k_ + p.k < term_.x.length;
    to.copy(static_cast<const T*>(term_.w.data) + at_ + 64 * v * (kTransposed ? 1 : term_.w.length), there);
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
    const int n = column_ + p.n, k = r + p.k;
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

template <class Tile, bool kTransposed>
__global__ void __launch_bounds__(kThreads, 2) lora_kernel(const LoraOperands<typename Tile::Element> o, int rows, int columns) {
  using T = typename Tile::Element;
  if constexpr (kComputes<T>) {
    __shared__ Buffers<Tile> shared;
    const TileIndex index = tile_of(blockIdx.x, rows, columns);
    const int row = index.row * Tile::kRows, padded = Tile::kColumns - o.width;
    int tile_column = index.column, term = 0;
    if (!o.sum)
      for (int tiles; tile_column >= (tiles = ceil_div(o.terms[term].store.n, o.width)); term++) tile_column -= tiles;
    const int column = tile_column * o.width, end = o.sum ? o.count : term + 1;
    const Store<T>& store = o.terms[term].store;

    Tile tile;
    for (; term < end; term++) {
      const LoraTerm<T>& now = o.terms[term];
      LoraLoader<Tile, kTransposed> loader(now, row, column, o.width);
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

    tile.template for_each_output<Store<T>::kCount>(shared.chunks[0], [&](int r, int c, auto& v) {
      if (row + r < o.m && c < o.width && column + c < store.n) store((row + r) * store.n + column + c, column + c, v);
    });
  }
}

template <class T>
bool run_fused(const LoraMatMul& op, Context& c) {
  const size_t count = op.terms.size();
  LoraOperands<T> o{{}, static_cast<int>(count), static_cast<int>(c.out(0).shape.rows()), 0, op.sum};
  if (count > kMostTerms) return false;
  int64_t rank = 0;
  for (size_t i = 0; i < count; i++) {
    const float scale = op.terms[i].scale;
    const bool transposed = op.terms[i].transposed;
    const Tensor &x = c.in(4 * i), &w = c.in(4 * i + 1), &down = c.in(4 * i + 2), &up = c.in(4 * i + 3), &t = c.out(op.products() + i);
    const Tensor& y = c.out(op.sum ? 0 : i);
    const int64_t t_rank = t.shape[-1];
    rank = std::max(rank, t_rank);
    const float* bias = op.bias ? data<const float>(c.in(4 * count)) : nullptr;
    o.terms[i] = {matrix_of<T>(x), matrix_of<T>(w), matrix_of<T>(down), matrix_of<T>(up, transposed ? 1 : scale),
                  static_cast<int>(t_rank), transposed ? scale : 1, data<T>(t), in_chunks<T>(t),
                  store_to<T>(y, bias, op.residual ? &c.last_in() : nullptr)};
    const bool fits = transposed == op.terms[0].transposed && x.shape.rows() == o.m && t_rank <= kMostRank;
    if (!fits || !o.terms[i].x.in_chunks || !o.terms[i].w.in_chunks) return false;
  }
  o.width = 128 - static_cast<int>(ceil_div<int64_t>(rank, 16)) * 16;
  int columns = 0;
  for (size_t i = 0; i < op.products(); i++) columns += ceil_div(o.terms[i].store.n, o.width);
  const auto go = [&](auto tile) {
    using Tile = typename decltype(tile)::type;
    const int rows = ceil_div(o.m, Tile::kRows);
    const auto kernel = op.terms[0].transposed ? lora_kernel<Tile, true> : lora_kernel<Tile, false>;
    launch("lora_mat_mul", kernel, rows * columns, kThreads, 0, c.stream, o, rows, columns);
  };
  // The taller tile is the more efficient one, unless it leaves multiprocessors idle.
  const auto time = [&](int tile_rows) { return ceil_div(ceil_div(o.m, tile_rows) * columns, c.card.multiprocessors) * tile_rows; };
  if (time(128) <= 1.15 * time(64)) go(std::type_identity<TensorCoreTile<T, 128, 128, 2, true>>());
  else go(std::type_identity<TensorCoreTile<T, 64, 128, 2, true>>());
  return true;
}

}  // namespace

size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> in, const Card& card) {
  // As plain products, should it come to that: what they read and write, in the op's order.
  std::vector<Value> values(in.begin(), in.end());
  Node node{op, {}, {}};
  for (size_t i = 0; i < op.products(); i++)
    values.push_back({"", in[4 * i].shape.with_channels(in[4 * i + 1].shape[op.terms[i].transposed]), in[0].dtype, Storage::activation});
  for (size_t i = 0; i < op.terms.size(); i++)
    values.push_back({"", in[4 * i].shape.with_channels(in[4 * i + 2].shape[op.terms[i].transposed]), in[0].dtype, Storage::activation});
  for (size_t i = 0; i < values.size(); i++) (i < in.size() ? node.inputs : node.outputs).push_back(static_cast<ValueId>(i));
  size_t bytes = 0;
  for (const Node& product : as_products(op, node)) {
    std::vector<Value> inputs;
    for (ValueId v : product.inputs) inputs.push_back(values[v]);
    bytes = std::max(bytes, workspace_bytes(std::get<MatMul>(product.op), inputs, card));
  }
  return bytes;
}

void run(const LoraMatMul& op, Context& c) {
  const DType dtype = c.out(0).dtype;
  if (dtype == DType::f16 && run_fused<__half>(op, c)) return;
  if (dtype == DType::bf16 && run_fused<__nv_bfloat16>(op, c)) return;
  for (const Node& product : as_products(op, c.node)) {
    Context one{c.card, c.stream, c.workspace, product, c.tensors};
    run(std::get<MatMul>(product.op), one);
  }
}

}  // namespace lorafuse::cuda
