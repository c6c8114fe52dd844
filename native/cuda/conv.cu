// Convolutions as products over (tap, channel): implicit GEMM, nothing is unfolded.
// y [pixels, N] = Σ_(tap, c) x[pixel under tap, c] · w[tap, N, c].
// The transposed one is the same sum: pixel y gets tap k from x at (y + before − k) / stride. With stride 2 the pixels of one
// parity, a phase, share the taps that reach them, and no product with a zero is made.
#include "conv_loaders.cuh"

namespace lorafuse::cuda {
namespace {

template <class T> using ConvTiles = std::conditional_t<
    std::is_same_v<T, float>,
    TileList<Rated<FloatTile<128, 64, true>, 100>, Rated<FloatTile<128, 16, true>, 40>, Rated<FloatTile<64, 64, false>, 50>>,
    TileList<Rated<TensorCoreTile<T, 128, 128, 2, true>, 100>, Rated<TensorCoreTile<T, 128, 64, 4, true>, 85>,
             Rated<TensorCoreTile<T, 64, 64, 2, true>, 75>, Rated<TensorCoreTile<T, 128, 16, 8, true>, 25>,
             Rated<TensorCoreTile<T, 64, 64, 2, false>, 50>>>;

Phase phase_of(const Conv2d& op, const Shape& w, const Shape& y, int) {
  return {.pixels = static_cast<int>(y.rows()),
          .offset_y = -op.before,
          .offset_x = -op.before,
          .depth = static_cast<int>(op.kernel * op.kernel * w[2]),
          .by_area = Divider(y[1] * y[2]),
          .by_width = Divider(y[2]),
          .by_taps_x = Divider(op.kernel)};
}

Phase phase_of(const ConvTranspose2d& op, const Shape& w, const Shape& y, int phase) {
  const int y0 = phase / op.stride, x0 = phase % op.stride, tap_y = (y0 + op.before) % op.stride, tap_x = (x0 + op.before) % op.stride;
  const auto pixels_from = [&](int first, int64_t size) { return first < size ? ceil_div<int64_t>(size - first, op.stride) : 0; };
  const auto taps_from = [&](int first) { return first < op.kernel ? ceil_div(op.kernel - first, op.stride) : 0; };
  const int64_t height = pixels_from(y0, y[1]), width = pixels_from(x0, y[2]);
  return {.y0 = y0,
          .x0 = x0,
          .pixels = static_cast<int>(y[0] * height * width),
          .tap_y = tap_y,
          .tap_x = tap_x,
          .offset_y = (y0 + op.before - tap_y) / op.stride,
          .offset_x = (x0 + op.before - tap_x) / op.stride,
          .depth = static_cast<int>(taps_from(tap_y) * taps_from(tap_x) * w[1]),
          .by_area = Divider(std::max<int64_t>(1, height * width)),
          .by_width = Divider(std::max<int64_t>(1, width)),
          .by_taps_x = Divider(std::max(1, taps_from(tap_x)))};
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

template <class Convolution> Work work_of(const Convolution& op, const Shape& x, const Shape& w, DType dtype, const Gpu& gpu) {
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
  work.choice =
      choose(shapes_of<ConvTiles>(dtype), takes_chunks(dtype, x, w), work.pixels, work.out[3], steps, work.phases, step_depth, gpu);
  return work;
}

// A trained kernel is f32. In a graph of 16-bit activations it is rounded to T in the workspace, which begins with it.
bool is_narrowed(DType x, DType w) { return w == DType::f32 && x != DType::f32; }
size_t narrowed_bytes(DType x, DType w, const Shape& shape) { return is_narrowed(x, w) ? aligned(shape.elements() * size_of(x)) : 0; }

template <class T> __global__ void __launch_bounds__(kBlock) narrow(int count, const float* from, T* to) {
  if constexpr (kComputes<T>) {
    const int i = blockIdx.x * kBlock + threadIdx.x;
    if (i < count) to[i] = from_float<T>(from[i]);
  }
}

template <bool kTransposed, class Convolution> void convolve(const char* name, const Convolution& op, Context& c) {
  const Tensor &x = c.in(0), &y = c.out(0);
  Tensor w = c.in(1);
  const Work work = work_of(op, x.shape, w.shape, x.dtype, c.gpu);
  for_type(x.dtype, [&]<class T>(T) {
    if constexpr (!std::is_same_v<T, float>)
      if (is_narrowed(x.dtype, w.dtype)) {
        const int64_t count = w.shape.elements();
        launch_each("narrow", narrow<T>, {count}, c.stream, count, w.f32(), c.workspace);
        w = {c.workspace, x.dtype, w.shape};
        c.workspace = static_cast<unsigned char*>(c.workspace) + aligned(w.bytes());
      }
    const auto extent = [](const Tensor& t, int i) { return static_cast<int>(t.shape[i]); };
    const bool chunks = takes_chunks(x.dtype, x.shape, w.shape);
    CHECK(!chunks || (in_chunks<T>(x) && in_chunks<T>(w)), "NOT_SUPPORTED", "[", name, "] expected x and w at multiples of 16 bytes");
    ConvOperands o{.x = x.data,
                   .w = w.data,
                   .height = extent(x, 1),
                   .width = extent(x, 2),
                   .channels = extent(x, 3),
                   .out_height = extent(y, 1),
                   .out_width = extent(y, 2),
                   .out_channels = extent(y, 3),
                   .kernel = op.kernel,
                   .step = kTransposed ? op.stride : 1,
                   .move = kTransposed ? 1 : op.stride,
                   .by_channels = Divider(x.shape[3]),
                   .phases = {}};
    std::copy_n(work.phase, kMostPhases, o.phases);
    const Store<T> store = store_to<T>(y, c.in_or_null(bias_input(op)), c.in_or_null(residual_input(op)));
    ConvTiles<T>::with(work.choice.tile, [&]<class Tile>(std::type_identity<Tile>) {
      using Loader = std::conditional_t<Tile::kInChunks, ConvWalk<Tile, kTransposed>, ConvLoader<Tile, kTransposed>>;
      launch_gemm<Loader>(name, c, o, store, work.pixels, o.out_channels, work.phases, y.shape.elements(), work.choice);
    });
  });
}

template <class Convolution> size_t workspace_of(const Convolution& op, std::span<const Value> in, const Gpu& gpu) {
  const Work work = work_of(op, in[0].shape, in[1].shape, in[0].dtype, gpu);
  return narrowed_bytes(in[0].dtype, in[1].dtype, in[1].shape) + split_bytes(work.choice, work.out.elements());
}

}  // namespace

template <> void run(const Conv2d& op, Context& c) { convolve<false>("conv2d", op, c); }
template <> void run(const ConvTranspose2d& op, Context& c) { convolve<true>("conv_transpose2d", op, c); }

template <> size_t workspace_bytes(const Conv2d& op, std::span<const Value> in, const Gpu& gpu) { return workspace_of(op, in, gpu); }
template <> size_t workspace_bytes(const ConvTranspose2d& op, std::span<const Value> in, const Gpu& gpu) {
  return workspace_of(op, in, gpu);
}

}  // namespace lorafuse::cuda
