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
  bool transposed;
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

template <class AnyTile>
struct LoraLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static __device__ constexpr bool transposed_a() { return false; }

  __device__ LoraLoader(const LoraTerm<T>& term, int row, int column, int width) : term_(term), row_(row), column_(column), width_(width) {}
  __device__ int steps() const { return ceil_div(term_.x.length, kDepth<T>); }
  __device__ bool transposed_b() const { return term_.transposed; }

  template <class To>
  __device__ void a(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    fetch_chunk<T>(term_.x, row_ + q / 4, k_ + q % 4 * kVector<T>, to);
  }
  template <class To>
  __device__ void b(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    constexpr int kLine = kLineChunks<T, Tile::kColumns, true>;
    if (term_.transposed) {
      const int k = k_ + q / kLine, n = q % kLine * kVector<T>;
      return n < width_ ? fetch_chunk<T>(term_.w, k, column_ + n, to) : fetch<T>(term_.down, k, n - width_, to);
    }
    const int n = q / 4, k = k_ + q % 4 * kVector<T>;
    n < width_ ? fetch_chunk<T>(term_.w, column_ + n, k, to) : fetch<T>(term_.down, n - width_, k, to);
  }
  __device__ void next() { k_ += kDepth<T>; }

  // Chunk q of `up` for the ranks from r.
  __device__ uint4 up(unsigned q, int r) const {
    constexpr int kLine = kLineChunks<T, Tile::kColumns, true>;
    const int n = term_.transposed ? q % kLine * kVector<T> : q / 4, k = r + (term_.transposed ? q / kLine : q % 4 * kVector<T>);
    uint4 chunk{};
    if (n < width_) fetch<T>(term_.up, term_.transposed ? k : column_ + n, term_.transposed ? column_ + n : k, ToRegister{chunk});
    return chunk;
  }

 private:
  const LoraTerm<T>& term_;
  int row_, column_, width_, k_ = 0;
};

// t [rows of the tile, rank], the left operand of the steps, to global memory.
template <class Tile, class T>
__device__ __forceinline__ void store_t(const LoraTerm<T>& term, int m, int row, int padded, const uint4* a) {
  const int per_row = padded / 8;
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

template <class Tile>
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
      LoraLoader<Tile> loader(now, row, column, o.width);
      multiply_steps(tile, loader, loader.steps(), shared);
      tile.take_columns(o.width, now.t_scale, shared.chunks[0], Buffers<Tile>::kStride);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>)
#pragma unroll 1
        for (int q = threadIdx.x; q < Buffers<Tile>::kB; q += kThreads)
          shared.chunks[r / kDepth<T>][place_b<Tile>(q, now.transposed)] = loader.up(q, r);
      __syncthreads();
      if (tile_column == 0) store_t<Tile>(now, o.m, row, padded, shared.chunks[0]);
#pragma unroll 1
      for (int r = 0; r < padded; r += kDepth<T>) {
        multiply_step(tile, loader, shared.chunks[r / kDepth<T>], now.transposed, min(padded - r, kDepth<T>));
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
    o.terms[i] = {matrix_of<T>(x), matrix_of<T>(w), matrix_of<T>(down), matrix_of<T>(up, transposed ? 1 : scale), transposed,
                  static_cast<int>(t_rank), transposed ? scale : 1, data<T>(t), in_chunks<T>(t),
                  store_to<T>(y, bias, op.residual ? &c.last_in() : nullptr)};
    if (x.shape.rows() != o.m || !o.terms[i].x.in_chunks || !o.terms[i].w.in_chunks || t_rank > kMostRank) return false;
  }
  o.width = 128 - static_cast<int>(ceil_div<int64_t>(rank, 16)) * 16;
  int columns = 0;
  for (size_t i = 0; i < op.products(); i++) columns += ceil_div(o.terms[i].store.n, o.width);
  const auto go = [&](auto tile) {
    using Tile = typename decltype(tile)::type;
    const int rows = ceil_div(o.m, Tile::kRows);
    launch("lora_mat_mul", lora_kernel<Tile>, rows * columns, kThreads, 0, c.stream, o, rows, columns);
  };
  // The taller tile is the more efficient one, unless it leaves multiprocessors idle.
  const auto time = [&](int tile_rows) { return ceil_div(ceil_div(o.m, tile_rows) * columns, c.card.multiprocessors) * tile_rows; };
  if (time(128) <= 1.15 * time(64)) go(std::type_identity<TensorCoreTile<T, 128, 128, 2>>());
  else go(std::type_identity<TensorCoreTile<T, 64, 128, 2>>());
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
