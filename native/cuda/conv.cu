// Convolutions as products over (tap, channel): implicit GEMM, nothing is unfolded.
// y [pixels, N] = Σ_(tap, c) x[pixel under tap, c] · w[tap, N, c].
// The transposed one is the same sum: pixel y gets tap k from x at (y + before − k) / stride. With stride 2 the pixels of one
// parity, a phase, share the taps that reach them, and no product with a zero is made.
#include "conv_loaders.cuh"

namespace lorafuse::cuda {
namespace {

constexpr TileShape kShapes[] = {
    {128, 128, true, 1}, {128, 64, true, 0.85}, {64, 64, true, 0.75}, {128, 16, true, 0.25}, {64, 64, false, 0.5}};
constexpr TileShape kFloatShapes[] = {{128, 64, true, 1}, {128, 16, true, 0.4}, {64, 64, false, 0.5}};

template <class T, class F>
void with_conv_tile(size_t chosen, F f) {
  if constexpr (std::is_same_v<T, float>)
    with_tile<FloatTile<128, 64, true>, FloatTile<128, 16, true>, FloatTile<64, 64, false>>(chosen, f);
  else
    with_tile<TensorCoreTile<T, 128, 128, 2, true>, TensorCoreTile<T, 128, 64, 4, true>, TensorCoreTile<T, 64, 64, 2, true>,
              TensorCoreTile<T, 128, 16, 8, true>, TensorCoreTile<T, 64, 64, 2, false>>(chosen, f);
}

Phase phase_of(const Conv2d& op, const Shape& w, const Shape& y, int) {
  const int before = op.before, taps = op.kernel * op.kernel;
  return {0,
          0,
          static_cast<int>(y.rows()),
          0,
          0,
          -before,
          -before,
          static_cast<int>(taps * w[2]),
          Divider(y[1] * y[2]),
          Divider(y[2]),
          Divider(op.kernel)};
}

Phase phase_of(const ConvTranspose2d& op, const Shape& w, const Shape& y, int phase) {
  const int y0 = phase / op.stride, x0 = phase % op.stride, tap_y = (y0 + op.before) % op.stride, tap_x = (x0 + op.before) % op.stride;
  const auto pixels_from = [&](int first, int64_t size) { return first < size ? ceil_div<int64_t>(size - first, op.stride) : 0; };
  const auto taps_from = [&](int first) { return first < op.kernel ? ceil_div(op.kernel - first, op.stride) : 0; };
  const int64_t height = pixels_from(y0, y[1]), width = pixels_from(x0, y[2]);
  return {y0,
          x0,
          static_cast<int>(y[0] * height * width),
          tap_y,
          tap_x,
          (y0 + op.before - tap_y) / op.stride,
          (x0 + op.before - tap_x) / op.stride,
          static_cast<int>(taps_from(tap_y) * taps_from(tap_x) * w[1]),
          Divider(std::max<int64_t>(1, height * width)),
          Divider(std::max<int64_t>(1, width)),
          Divider(std::max(1, taps_from(tap_x)))};
}

int phases_of(const Conv2d&) { return 1; }
int phases_of(const ConvTranspose2d& op) { return op.stride * op.stride; }

Shape output_shape(const Conv2d& op, const Shape& x, const Shape& w) {
  const auto extent = [&](int64_t size) { return (size + op.before + op.after - op.kernel) / op.stride + 1; };
  return {x[0], extent(x[1]), extent(x[2]), w[1]};
}
Shape output_shape(const ConvTranspose2d& op, const Shape& x, const Shape& w) { return {x[0], op.height, op.width, w[2]}; }

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
Work work_of(const Convolution& op, const Shape& x, const Shape& w, DType dtype, const Gpu& gpu) {
  Work work{output_shape(op, x, w), phases_of(op), {}, 0, {}};
  CHECK(work.phases <= kMostPhases, "NOT_SUPPORTED", "[conv_transpose2d] expected stride 1 or 2 but received ", op.stride);
  for (const int64_t elements : {x.elements(), w.elements(), work.out.elements()}) expect_small("conv2d", elements);
  const int step_depth = depth_of(dtype);
  int64_t steps = 0;
  for (int i = 0; i < work.phases; i++) {
    work.phase[i] = phase_of(op, w, work.out, i);
    work.pixels = std::max<int64_t>(work.pixels, work.phase[i].pixels);
    steps = std::max<int64_t>(steps, ceil_div(work.phase[i].depth, step_depth));
  }
  const std::span<const TileShape> shapes = dtype == DType::f32 ? std::span<const TileShape>(kFloatShapes) : kShapes;
  work.choice = choose(shapes, takes_chunks(dtype, x, w), work.pixels, work.out[3], steps, work.phases, step_depth, gpu);
  return work;
}

template <bool kTransposed, class Convolution>
void convolve(const char* name, const Convolution& op, Context& c) {
  const Tensor &x = c.in(0), &w = c.in(1), &y = c.out(0);
  const Tensor *bias = op.bias ? &c.in(2) : nullptr, *residual = op.residual ? &c.last_in() : nullptr;
  const Work work = work_of(op, x.shape, w.shape, x.dtype, c.gpu);
  for_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const auto extent = [](const Tensor& t, int i) { return static_cast<int>(t.shape[i]); };
    const bool chunks = takes_chunks(x.dtype, x.shape, w.shape);
    CHECK(!chunks || (in_chunks<T>(x) && in_chunks<T>(w)), "NOT_SUPPORTED", "[", name, "] expected x and w at multiples of 16 bytes");
    ConvOperands o{x.data,
                   w.data,
                   extent(x, 1),
                   extent(x, 2),
                   extent(x, 3),
                   extent(y, 1),
                   extent(y, 2),
                   extent(y, 3),
                   op.kernel,
                   kTransposed ? op.stride : 1,
                   kTransposed ? 1 : op.stride,
                   Divider(x.shape[3]),
                   {}};
    std::copy_n(work.phase, kMostPhases, o.phases);
    const Store<T> store = store_to<T>(y, bias ? data<const float>(*bias) : nullptr, residual);
    with_conv_tile<T>(work.choice.tile, [&](auto tile) {
      using Tile = typename decltype(tile)::type;
      using Loader = std::conditional_t<Tile::kInChunks, ConvWalk<Tile, kTransposed>, ConvLoader<Tile, kTransposed>>;
      launch_gemm<Loader>(name, c, o, store, work.pixels, o.out_channels, work.phases, y.shape.elements(), work.choice);
    });
  });
}

template <class Convolution>
size_t workspace_of(const Convolution& op, std::span<const Value> in, const Gpu& gpu) {
  const Work work = work_of(op, in[0].shape, in[1].shape, in[0].dtype, gpu);
  return partial_bytes(work.choice, work.out.elements());
}

}  // namespace

void run(const Conv2d& op, Context& c) { convolve<false>("conv2d", op, c); }
void run(const ConvTranspose2d& op, Context& c) { convolve<true>("conv_transpose2d", op, c); }

size_t workspace_bytes(const Conv2d& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of(op, in, gpu); }
size_t workspace_bytes(const ConvTranspose2d& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of(op, in, gpu); }

}  // namespace lorafuse::cuda
