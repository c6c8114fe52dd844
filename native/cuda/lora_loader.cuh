// What a block of lora_kernel reads: x, and w beside down, step by step; then `up`. See lora.cu.
#pragma once
#include "gemm.cuh"

namespace lorafuse::cuda {

constexpr int kMostTerms = 4, kMostRank = 64;  // t fits the two buffers of the main loop

template <class T>
struct LoraTerm {
  Matrix x, w, down, up;  // down, up: float
  int rank;
  float t_scale;
  Store<T> t;  // [M, rank]
  Store<T> y;
  int t_column, y_column;  // of the parts
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
  // Where K is split: f32 sums [parts, M, pitch] of all y, then all t, each from a multiple of 8 columns; otherwise null.
  float* parts;
  int pitch, steps_per_part;
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

  __device__ LoraLoader(const LoraTerm<T>& term, int row, int column, int width, int step)
      : term_(term), column_(column), width_(width), k_(step * kDepth<T>) {
    from_x_.begin(term.x, false, row, k_);
    const Place p = place_of_chunk(threadIdx.x);
    at_ = kTransposed ? (k_ + p.k) * term.w.length + column + p.n : column_of(p.n) * term.w.length + k_ + p.k;
  }

  template <class To>
  __device__ void a(int v, const To& to) const {
    from_x_.copy(term_.x, false, k_, v, to);
  }
  template <class To>
  __device__ void b(int v, const To& to) const {
    const Place p = place_of_chunk(chunk_of_thread(v));
    if (p.n >= width_) return fetch_floats<T>(term_.down, kTransposed ? k_ + p.k : p.n - width_, kTransposed ? p.n - width_ : k_ + p.k, to);
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
  int column_, width_, k_, at_;
  Walk<T, Tile::kRows> from_x_;
};

}  // namespace lorafuse::cuda
