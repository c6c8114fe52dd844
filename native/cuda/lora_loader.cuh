// The operands of lora_kernel, and how a block reads them: x, and w beside `reduce`, step by step; then `expand`. See lora.cu.
#pragma once
#include "gemm.cuh"

namespace lorafuse::cuda {

constexpr int kMostTerms = 4, kMostRank = 64;  // t fits the two buffers of the main loop

template <class T>
struct LoraTerm {
  Matrix x, w, reduce, expand;  // reduce, expand: float
  int rank;
  float t_scale;
  Store<T> t;  // [M, rank]
  Store<T> y;
  int t_column, y_column;  // in split_sums
  __device__ int steps() const { return ceil_div(x.length, kDepth<T>); }
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
  // Where K is split: f32 sums [splits, M, pitch] of all y, then all t, each from a multiple of 8 columns; otherwise null.
  float* split_sums;
  int pitch, steps_per_split;
};

// x, and w beside `reduce`: each warp moves chunks of only one of them, so that none waits for the conversion of `reduce`.
// kPaired, for a GEGLU: a tile has 8 columns of a, the same 8 of b, the next 8 of a, …; `column` is the first one's.
template <class AnyTile, bool kTransposed, bool kPaired>
struct LoraLoader {
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

  template <class To>
  __device__ void a(int v, const To& to) const {
    from_x_.copy(term_.x, false, k_, v, to);
  }
  template <class To>
  __device__ void b(int v, const To& to) const {
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

}  // namespace lorafuse::cuda
