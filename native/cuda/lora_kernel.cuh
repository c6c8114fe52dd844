// Linear layers with their adapters, y = x·wᵀ + s·(x·downᵀ)·upᵀ, in one pass over x.
//
// The last columns of a block's tile are rows of `down`: the main loop that sums x·wᵀ sums t = x·downᵀ beside it. Then t, rounded to T,
// becomes the left operand of one or two more steps, whose right operand is `up`. Layers that share x (q, k, v) share a launch. For the
// gradient of x, `up` and `down` change places, and the layers are terms that follow each other in the same sums. Where blocks are few,
// K is split: each split multiplies its own share of t by `up`, and the f32 sums of all y and t are added in order (reduce_lora_splits).
//
// The same kernel ends in a GEGLU after a layer, or in its gradient, also where the layer has no adapter (rank 0).
#pragma once
#include "gemm.cuh"

namespace lorafuse::cuda {

constexpr int kMostTerms = 4, kMostRank = 64;  // t fits the two buffers of the main loop

template <class T> struct LoraTerm {
  Matrix x, w, reduce, expand;  // reduce, expand: float
  int rank;
  float t_scale;
  Store<T> t;  // [M, rank]
  Store<T> y;
  int t_column, y_column;  // in split_sums
  __device__ int steps() const { return ceil_div(x.length, kDepth<T>); }
  __host__ __device__ int columns(bool transposed) const { return transposed ? w.length : w.lines; }  // of the product
};

template <class T> struct LoraOperands {
  LoraTerm<T> terms[kMostTerms];
  int count, m;
  int width;  // columns of y in a tile; the rest is t
  bool sum;
  T* gated;         // [M, F] of a GEGLU
  const T* gate_x;  // [M, 2F] of its gradient
  // Where K is split: f32 sums [splits, M, pitch] of all y, then all t, each from a multiple of 8 columns; otherwise null.
  float* split_sums;
  int pitch, steps_per_split;
};

// Reads x, and w beside `reduce`, step by step; then `expand`. Each warp moves chunks of only one of them, so that none waits for the
// conversion of `reduce`. kPaired, for a GEGLU: a tile has 8 columns of a, the same 8 of b, the next 8 of a, …; `column` is the first
// one's.
template <class AnyTile, bool kTransposed, bool kPaired> struct LoraLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static_assert(Tile::kColumns == 128 && sizeof(T) == 2 && !(kTransposed && kPaired));
  static __device__ constexpr bool transposed_a() { return false; }
  static __device__ constexpr bool transposed_b() { return kTransposed; }

  __device__ LoraLoader(const LoraTerm<T>& term, int row, int column, int width, int step)
      : term_(term), column_(column), width_(width), k_(step * kDepth<T>) {
    from_x_.begin(term.x, false, row, k_);
    const Position p = position_of_chunk(threadIdx.x);
    at_ = kTransposed ? (k_ + p.k) * term.w.length + column + p.n : column_of(p.n) * term.w.length + k_ + p.k;
  }

  template <class To> __device__ void a(int v, const To& to) const { from_x_.copy(term_.x, false, k_, v, to); }
  template <class To> __device__ void b(int v, const To& to) const {
    const Position p = position_of_chunk(chunk_of_thread(v));
    if (p.n >= width_)
      return fetch_floats<T>(term_.reduce, kTransposed ? k_ + p.k : p.n - width_, kTransposed ? p.n - width_ : k_ + p.k, to);
    const bool there = column_of(p.n) < term_.columns(kTransposed) && k_ + p.k < term_.x.length;
    to.copy(static_cast<const T*>(term_.w.data) + at_ + (kPaired ? 32 : 64) * v * (kTransposed ? 1 : term_.w.length), there);
  }
  __device__ void next() {
    k_ += kDepth<T>;
    from_x_.next(term_.x, false);
    at_ += kTransposed ? kDepth<T> * term_.w.length : kDepth<T>;
  }
  static __device__ __forceinline__ int slot_b(int v) {
    const Position p = position_of_chunk(threadIdx.x);
    constexpr int kLine = kLineChunks<T, 128, kTransposed>;
    return kTransposed ? swizzle<kLine>(p.k, p.n / 8) + 8 * v : swizzle<kLine>(p.n, p.k / 8) + kThreads * v;
  }

  // Chunk v of `expand` for the ranks from r.
  __device__ uint4 expand(int v, int r) const {
    const Position p = position_of_chunk(chunk_of_thread(v));
    uint4 chunk{};
    const int n = column_of(p.n), k = r + p.k;
    if (p.n < width_) fetch_floats<T>(term_.expand, kTransposed ? k : n, kTransposed ? n : k, ToRegister{chunk});
    return chunk;
  }

 private:
  struct Position {
    int n, k;  // column of the tile and k of the step
  };
  // Where chunk q of the tile lies: a warp has 64 bytes of 8 columns, or where transposed two chunks of 16 k's, 8 of which follow each
  // other so that banks do not conflict.
  static __device__ __forceinline__ Position position_of_chunk(unsigned q) {
    if (!kTransposed) return {static_cast<int>(q / 4), static_cast<int>(q % 4 * 8)};
    return {static_cast<int>(q / 64 * 16 + q / 8 % 2 * 8), static_cast<int>(q / 32 % 2 * 16 + q / 16 % 2 * 8 + q % 8)};
  }

  // The column of y that column n of the tile is.
  __device__ __forceinline__ int column_of(int n) const {
    if constexpr (kPaired) return column_ + n / 16 * 8 + n % 8 + (n & 8 ? term_.w.lines / 2 : 0);
    else return column_ + n;
  }

  const LoraTerm<T>& term_;
  int column_, width_, k_, at_;
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
    const uint4* from = a + k / kDepth<T> * Buffers<Tile>::kStride + swizzle<kLineBytes / 16>(r, k % kDepth<T> / 8);
    const Chunk<T> chunk(reinterpret_cast<const T*>(from));
    T* to = term.t.y + (row + r) * term.rank + k;
    if (term.t.in_chunks) {
      *reinterpret_cast<uint4*>(to) = chunk.bits;
    } else {
#pragma unroll
      for (int e = 0; e < 8; e++)
        if (k + e < term.rank) to[e] = chunk.elements[e];
    }
  }
}

template <class Tile, bool kTransposed, Gate kGate> __global__ void __launch_bounds__(kThreads, 2)
    lora_kernel(const LoraOperands<typename Tile::Element> o, int rows, int columns) {
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
template <class T> struct Segment {
  int column, first, last;
  Store<T> store;
};
template <class T> struct Segments {
  Segment<T> at[2 * kMostTerms];
  int count;
};

// split_sums [splits, m, pitch], added in order; a thread has four columns.
template <class T> __global__ void __launch_bounds__(256)
    reduce_lora_splits(const float* split_sums, int m, int pitch, const Segments<T> segments) {
  if constexpr (kComputes<T>) {
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
}

}  // namespace lorafuse::cuda
