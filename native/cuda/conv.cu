// Convolutions as products over (tap, channel): implicit GEMM, nothing is unfolded.
// y [pixels, N] = Σ_(tap, c) x[pixel under tap, c] · w[tap, N, c].
// The input gradient is the same sum over dy: pixel y gets tap k from dy at (y + before − k) / stride. With stride 2 the pixels of one
// parity, a phase, share the taps that reach them, and no product with a zero is made.
#include "gemm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kMostPhases = 4;
constexpr int kFar = 1 << 20;  // off any image

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
// through taps (tap_y + step·i, tap_x + step·j); + in the convolution, − in its gradient.
struct Phase {
  int y0, x0, pixels, tap_y, tap_x, offset_y, offset_x;
  int depth;  // taps · channels
  Divider by_area, by_width, by_taps_x;
};

struct ConvOperands {
  const void *x, *w;
  int height, width, channels;               // of the input
  int out_height, out_width, out_channels;
  int kernel, step, move;
  bool x_in_chunks, w_in_chunks;
  Divider by_channels;
  Phase phases[kMostPhases];
};

template <class AnyTile, bool kGradient>
struct ConvLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  using Operands = ConvOperands;
  static __device__ constexpr bool transposed_a() { return false; }
  static __device__ constexpr bool transposed_b() { return kGradient; }  // w[tap] is [N, C], and it is N that the gradient sums over

  __device__ ConvLoader(const Operands& o, int row, int column, int phase, int step)
      : o_(o), phase_(o.phases[phase]), column_(column), k_(step * kDepth<T>) {
#pragma unroll
    for (int v = 0; v < kShare; v++) {
      const int r = row + chunk_of_thread(v) / 4;
      const int image = phase_.by_area(r), in_image = r - image * phase_.by_area.divisor;
      const int y = phase_.by_width(in_image), x = in_image - y * phase_.by_width.divisor;
      images_[v] = image * o.height;
      y_[v] = r < phase_.pixels ? y * o.move + phase_.offset_y : -kFar;
      x_[v] = x * o.move + phase_.offset_x;
    }
  }
  __device__ int steps() const { return ceil_div(phase_.depth, kDepth<T>); }
  __device__ int columns() const { return o_.out_channels; }
  __device__ int output_row(int row) const {
    if (row >= phase_.pixels) return -1;
    if (!kGradient || o_.step == 1) return row;
    const int image = phase_.by_area(row), in_image = row - image * phase_.by_area.divisor;
    const int y = phase_.by_width(in_image), x = in_image - y * phase_.by_width.divisor;
    return (image * o_.out_height + phase_.y0 + o_.step * y) * o_.out_width + phase_.x0 + o_.step * x;
  }

  template <class To>
  __device__ void a(int v, const To& to) const {
    const int k = k_ + threadIdx.x % 4 * kVector<T>;
    const T* x = static_cast<const T*>(o_.x);
    if (Tile::kInChunks || o_.x_in_chunks) {
      const int at = input_at(v, k);
      return at < 0 ? to.put(uint4{}) : to.copy(x + at);
    }
    to.put(gather_chunk<T>([&](int e) {
      const int at = input_at(v, k + e);
      return at < 0 ? from_float<T>(0) : x[at];
    }));
  }

  template <class To>
  __device__ void b(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    constexpr int kLine = kLineChunks<T, Tile::kColumns, kGradient>;
    const int k = k_ + (kGradient ? q / kLine : q % 4 * kVector<T>), n = column_ + (kGradient ? q % kLine * kVector<T> : q / 4);
    const T* w = static_cast<const T*>(o_.w);
    if (Tile::kInChunks || o_.w_in_chunks) {
      const int at = weight_at(k, n);
      return at < 0 ? to.put(uint4{}) : to.copy(w + at);
    }
    to.put(gather_chunk<T>([&](int e) {
      const int at = kGradient ? weight_at(k, n + e) : weight_at(k + e, n);
      return at < 0 ? from_float<T>(0) : w[at];
    }));
  }
  __device__ void next() { k_ += kDepth<T>; }

 private:
  struct Tap {
    int i, j, channel;
  };
  __device__ Tap tap(int k) const {
    const int t = o_.by_channels(k), i = phase_.by_taps_x(t);
    return {i, t - i * static_cast<int>(phase_.by_taps_x.divisor), k - t * o_.channels};
  }
  // Offset of the element under row v's pixel, −1 where there is none.
  __device__ int input_at(int v, int k) const {
    const Tap t = tap(k);
    const int y = kGradient ? y_[v] - t.i : y_[v] + t.i, x = kGradient ? x_[v] - t.j : x_[v] + t.j;
    const bool inside = k < phase_.depth && static_cast<unsigned>(y) < o_.height && static_cast<unsigned>(x) < o_.width;
    return inside ? ((images_[v] + y) * o_.width + x) * o_.channels + t.channel : -1;
  }
  __device__ int weight_at(int k, int n) const {
    if (k >= phase_.depth || n >= o_.out_channels) return -1;
    const Tap t = tap(k);
    const int at = (phase_.tap_y + o_.step * t.i) * o_.kernel + phase_.tap_x + o_.step * t.j;
    return kGradient ? (at * o_.channels + t.channel) * o_.out_channels + n : (at * o_.out_channels + n) * o_.channels + t.channel;
  }

  const Operands& o_;
  const Phase& phase_;
  int column_, k_;
  static constexpr int kShare = ceil_div(kChunks<T, Tile::kRows>, kThreads);
  int images_[kShare], y_[kShare], x_[kShare];  // of the pixels whose chunks this thread moves; images_ in rows of pixels
};

constexpr TileShape kShapes[] = {{128, 128, 1}, {128, 64, 0.85}, {64, 64, 0.7}, {128, 16, 0.25}};
constexpr TileShape kFloatShapes[] = {{128, 64, 1}, {64, 64, 0.8}, {128, 16, 0.4}};

template <class T, class F>
void with_conv_tile(size_t chosen, F f) {
  if constexpr (std::is_same_v<T, float>) with_tile<FloatTile<128, 64>, FloatTile<64, 64>, FloatTile<128, 16>>(chosen, f);
  else
    with_tile<TensorCoreTile<T, 128, 128, 2>, TensorCoreTile<T, 128, 64, 4>, TensorCoreTile<T, 64, 64, 2>, TensorCoreTile<T, 128, 16, 8>>(
        chosen, f);
}

Phase phase_of(const Conv2d& op, const Shape& w, const Shape& y, int) {
  const int before = op.before, taps = op.kernel * op.kernel;
  return {0, 0, static_cast<int>(y.rows()), 0, 0, -before, -before, static_cast<int>(taps * w[2]),
          Divider(y[1] * y[2]), Divider(y[2]), Divider(op.kernel)};
}

Phase phase_of(const Conv2dInputGrad& op, const Shape& w, const Shape& dx, int phase) {
  const int y0 = phase / op.stride, x0 = phase % op.stride, tap_y = (y0 + op.before) % op.stride, tap_x = (x0 + op.before) % op.stride;
  const auto pixels_from = [&](int first, int64_t size) { return first < size ? ceil_div<int64_t>(size - first, op.stride) : 0; };
  const auto taps_from = [&](int first) { return first < op.kernel ? ceil_div(op.kernel - first, op.stride) : 0; };
  const int64_t height = pixels_from(y0, dx[1]), width = pixels_from(x0, dx[2]);
  return {y0, x0, static_cast<int>(dx[0] * height * width), tap_y, tap_x,
          (y0 + op.before - tap_y) / op.stride, (x0 + op.before - tap_x) / op.stride,
          static_cast<int>(taps_from(tap_y) * taps_from(tap_x) * w[1]),
          Divider(std::max<int64_t>(1, height * width)), Divider(std::max<int64_t>(1, width)), Divider(std::max(1, taps_from(tap_x)))};
}

int phases_of(const Conv2d&) { return 1; }
int phases_of(const Conv2dInputGrad& op) { return op.stride * op.stride; }

Shape output_shape(const Conv2d& op, const Shape& x, const Shape& w) {
  const auto extent = [&](int64_t size) { return (size + op.before + op.after - op.kernel) / op.stride + 1; };
  return {x[0], extent(x[1]), extent(x[2]), w[1]};
}
Shape output_shape(const Conv2dInputGrad& op, const Shape& dy, const Shape& w) { return {dy[0], op.height, op.width, w[2]}; }

struct Work {
  Shape out;
  int phases;
  Phase phase[kMostPhases];
  int64_t pixels = 0;  // of the largest phase
  Choice choice;
};

// Images and weights are aligned: only their widths decide whether they are in chunks.
bool takes_chunks(DType dtype, const Shape& x, const Shape& w) {
  const int64_t elements = 16 / static_cast<int64_t>(size_of(dtype));
  return x[3] % elements == 0 && w[2] % elements == 0;
}

template <class Convolution>
Work work_of(const Convolution& op, const Shape& x, const Shape& w, DType dtype, const Card& card) {
  Work work{output_shape(op, x, w), phases_of(op), {}, 0, {}};
  CHECK(work.phases <= kMostPhases, "NOT_SUPPORTED", "[conv2d_input_grad] expected stride 1 or 2 but received ", op.stride);
  for (const int64_t elements : {x.elements(), w.elements(), work.out.elements()}) expect_small("conv2d", elements);
  const int step_depth = kLineBytes / static_cast<int>(size_of(dtype));
  int64_t steps = 0;
  for (int i = 0; i < work.phases; i++) {
    work.phase[i] = phase_of(op, w, work.out, i);
    work.pixels = std::max<int64_t>(work.pixels, work.phase[i].pixels);
    steps = std::max<int64_t>(steps, ceil_div(work.phase[i].depth, step_depth));
  }
  const std::span<const TileShape> shapes = dtype == DType::f32 ? std::span<const TileShape>(kFloatShapes) : kShapes;
  work.choice = choose(shapes, takes_chunks(dtype, x, w), work.pixels, work.out[3], steps, work.phases, step_depth, card);
  return work;
}

template <bool kGradient, class Convolution>
void convolve(const char* name, const Convolution& op, Context& c, const Tensor* bias) {
  const Tensor &x = c.in(0), &w = c.in(1), &y = c.out(0);
  const Tensor* residual = op.residual ? &c.last_in() : nullptr;
  const Work work = work_of(op, x.shape, w.shape, x.dtype, c.card);
  for_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const auto extent = [](const Tensor& t, int i) { return static_cast<int>(t.shape[i]); };
    const bool chunks = takes_chunks(x.dtype, x.shape, w.shape);
    CHECK(!chunks || (in_chunks<T>(x) && in_chunks<T>(w)), "NOT_SUPPORTED", "[", name, "] expected x and w at multiples of 16 bytes");
    ConvOperands o{x.data, w.data, extent(x, 1), extent(x, 2), extent(x, 3), extent(y, 1), extent(y, 2), extent(y, 3),
                   op.kernel, kGradient ? op.stride : 1, kGradient ? 1 : op.stride, in_chunks<T>(x), in_chunks<T>(w),
                   Divider(x.shape[3]), {}};
    std::copy_n(work.phase, kMostPhases, o.phases);
    const Store<T> store = store_to<T>(y, bias ? data<const float>(*bias) : nullptr, residual);
    with_conv_tile<T>(work.choice.tile, [&](auto tile) {
      using Loader = ConvLoader<typename decltype(tile)::type, kGradient>;
      launch_gemm<Loader>(name, c, o, store, work.pixels, o.out_channels, work.phases, y.shape.elements(), work.choice);
    });
  });
}

template <class Convolution>
size_t workspace_of(const Convolution& op, std::span<const Value> in, const Card& card) {
  const Work work = work_of(op, in[0].shape, in[1].shape, in[0].dtype, card);
  return partial_bytes(work.choice, work.out.elements());
}

}  // namespace

void run(const Conv2d& op, Context& c) { convolve<false>("conv2d", op, c, op.bias ? &c.in(2) : nullptr); }
void run(const Conv2dInputGrad& op, Context& c) { convolve<true>("conv2d_input_grad", op, c, nullptr); }

size_t workspace_bytes(const Conv2d& op, std::span<const Value> in, const Card& card) { return workspace_of(op, in, card); }
size_t workspace_bytes(const Conv2dInputGrad& op, std::span<const Value> in, const Card& card) { return workspace_of(op, in, card); }

}  // namespace lorafuse::cuda
