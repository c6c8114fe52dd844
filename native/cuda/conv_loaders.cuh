// Convolutions as products: which pixel and which element of the weights each (row, column, k) stands for.
#pragma once
#include "gemm.cuh"

namespace lorafuse::cuda {

constexpr int kMostPhases = 4;

// x / divisor for 0 ≤ x < 2^31 (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divider {
  unsigned divisor = 1, multiplier = 1, shift = 0;
  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<unsigned>(d)) {
    while ((uint64_t{1} << shift) < divisor) shift++;
    multiplier = static_cast<unsigned>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor) / divisor + 1);
  }
  __device__ __forceinline__ int operator()(int x) const { return static_cast<int>((__umulhi(x, multiplier) + x) >> shift); }
};

// Output pixels (y0 + step·y, x0 + step·x), which input pixels (move·y + offset_y ± i, move·x + offset_x ± j) reach
// through taps (tap_y + step·i, tap_x + step·j); + in the convolution, − in the transposed one.
struct Phase {
  int y0 = 0, x0 = 0, pixels, tap_y = 0, tap_x = 0, offset_y, offset_x;
  int depth;  // taps · channels
  Divider by_area, by_width, by_taps_x;
};

struct ConvOperands {
  const void *x, *w;
  int height, width, channels;  // of the input
  int out_height, out_width, out_channels;
  int kernel, step, move;
  Divider by_channels;
  Phase phases[kMostPhases];
};

// The common part of both loaders: where a block's tile lies.
template <class AnyTile, bool kTransposed> struct ConvTile {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  using Operands = ConvOperands;
  static __device__ constexpr bool transposed_a() { return false; }
  static __device__ constexpr bool transposed_b() { return kTransposed; }  // w[tap] is [N, C], and it is N that is summed over

  __device__ ConvTile(const Operands& operands, int first_row, int first_column, int phase_index, int step)
      : o(operands), phase(operands.phases[phase_index]), row(first_row), column(first_column), k(step * kDepth<T>) {}
  __device__ int steps() const { return ceil_div(phase.depth, kDepth<T>); }
  __device__ int columns() const { return o.out_channels; }
  __device__ int output_row(int r) const {
    if (r >= phase.pixels) return -1;
    if (!kTransposed || o.step == 1) return r;
    const Pixel p = pixel(r);
    return (p.image * o.out_height + phase.y0 + o.step * p.y) * o.out_width + phase.x0 + o.step * p.x;
  }

  struct Pixel {
    int image, y, x;  // y, x count the phase's own
  };
  __device__ Pixel pixel(int r) const {
    const int image = phase.by_area(r), in_image = r - image * phase.by_area.divisor, y = phase.by_width(in_image);
    return {image, y, in_image - y * static_cast<int>(phase.by_width.divisor)};
  }

  struct Tap { int i, j, channel; };
  __device__ Tap tap(int of_k) const {
    const int t = o.by_channels(of_k), i = phase.by_taps_x(t);
    return {i, t - i * static_cast<int>(phase.by_taps_x.divisor), of_k - t * o.channels};
  }

  // Offset of the input's element under row r of the output, −1 where there is none.
  __device__ int input_at(int r, const Tap& t) const {
    const Pixel p = pixel(r);
    const int y = p.y * o.move + phase.offset_y + (kTransposed ? -t.i : t.i);
    const int x = p.x * o.move + phase.offset_x + (kTransposed ? -t.j : t.j);
    const bool inside = r < phase.pixels && static_cast<unsigned>(y) < o.height && static_cast<unsigned>(x) < o.width;
    return inside ? ((p.image * o.height + y) * o.width + x) * o.channels + t.channel : -1;
  }
  __device__ int weight_at(const Tap& t, int n) const {
    const int at = (phase.tap_y + o.step * t.i) * o.kernel + phase.tap_x + o.step * t.j;
    return kTransposed ? (at * o.channels + t.channel) * o.out_channels + n : (at * o.out_channels + n) * o.channels + t.channel;
  }

  const Operands& o;
  const Phase& phase;
  int row, column, k;
};

// For any numbers of channels: each element is located by itself.
template <class AnyTile, bool kTransposed> struct ConvLoader : ConvTile<AnyTile, kTransposed> {
  using ConvTile<AnyTile, kTransposed>::ConvTile;
  using typename ConvTile<AnyTile, kTransposed>::T;
  using typename ConvTile<AnyTile, kTransposed>::Tile;

  template <class To> __device__ void a(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    to.put(gather_chunk<T>([&](int e) {
      const int k = this->k + q % 4 * kVector<T> + e, at = k < this->phase.depth ? this->input_at(this->row + q / 4, this->tap(k)) : -1;
      return at < 0 ? from_float<T>(0) : static_cast<const T*>(this->o.x)[at];
    }));
  }
  template <class To> __device__ void b(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    constexpr int kLine = kLineChunks<T, Tile::kColumns, kTransposed>;
    to.put(gather_chunk<T>([&](int e) {
      const int k = this->k + (kTransposed ? q / kLine : q % 4 * kVector<T> + e);
      const int n = this->column + (kTransposed ? q % kLine * kVector<T> + e : q / 4);
      if (k >= this->phase.depth || n >= this->o.out_channels) return from_float<T>(0);
      return static_cast<const T*>(this->o.w)[this->weight_at(this->tap(k), n)];
    }));
  }
  __device__ void next() { this->k += kDepth<T>; }
};

// For whole chunks of channels: a chunk has one tap, and until its channels end addresses only move on.
template <class AnyTile, bool kTransposed> struct ConvWalk : ConvTile<AnyTile, kTransposed> {
  using typename ConvTile<AnyTile, kTransposed>::T;
  using typename ConvTile<AnyTile, kTransposed>::Tile;

  __device__ ConvWalk(const ConvOperands& operands, int row, int column, int phase, int step)
      : ConvTile<AnyTile, kTransposed>(operands, row, column, phase, step) {
    begin_tap();
    if (kTransposed) w_at_ = (this->k + threadIdx.x / kLine) * operands.out_channels + first_column();
  }

  template <class To> __device__ void a(int v, const To& to) const { to.copy(static_cast<const T*>(this->o.x) + at_[v], at_[v] >= 0); }

  template <class To> __device__ void b(int v, const To& to) const {
    const T* w = static_cast<const T*>(this->o.w);
    if constexpr (!kTransposed) {
      const int n = v * (kThreads / 4);
      return to.copy(w + w_at_ + n * this->o.channels, deep_enough_ && first_column() + n < this->o.out_channels);
    }
    constexpr int kLines = kThreads / kLine;  // from one chunk of this thread to the next
    const int k = this->k + threadIdx.x / kLine + v * kLines;
    const bool there = k < this->phase.depth && first_column() < this->o.out_channels;
    if (this->o.step == 1) to.copy(w + w_at_ + v * kLines * this->o.out_channels, there);  // lines of w are k's in their order
    else to.copy(w + this->weight_at(this->tap(k), first_column()), there);
  }

  __device__ void next() {
    this->k += kDepth<T>;
    if (kTransposed) w_at_ += kDepth<T> * this->o.out_channels;
    else w_at_ += kDepth<T>;
    channel_ += kDepth<T>;
    if (channel_ >= this->o.channels) return begin_tap();
#pragma unroll
    for (int v = 0; v < kShare; v++) at_[v] += at_[v] < 0 ? 0 : kDepth<T>;
  }

 private:
  static constexpr int kShare = ceil_div(kChunks<T, Tile::kRows>, kThreads), kLine = kLineChunks<T, Tile::kColumns, kTransposed>;

  __device__ int first_column() const { return this->column + (kTransposed ? threadIdx.x % kLine * kVector<T> : threadIdx.x / 4); }

  __device__ void begin_tap() {
    const int k = this->k + threadIdx.x % 4 * kVector<T>;
    const auto tap = this->tap(k);
    channel_ = tap.channel;
    deep_enough_ = k < this->phase.depth;
#pragma unroll
    for (int v = 0; v < kShare; v++) at_[v] = deep_enough_ ? this->input_at(this->row + chunk_of_thread(v) / 4, tap) : -1;
    if (!kTransposed) w_at_ = this->weight_at(tap, first_column());
  }

  int channel_, at_[kShare], w_at_;  // at_: −1 off the image
  bool deep_enough_;
};

}  // namespace lorafuse::cuda
