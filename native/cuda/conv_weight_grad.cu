// Gradients of trainable convolution kernels: for each tap, g [N, C] += yᵀ [N, pixels] · x [pixels under the tap, C]. See gemm.cuh.
#include "conv_loaders.cuh"

namespace lorafuse::cuda {
namespace {

struct ConvWeightGradOperands {
  Matrix y;  // [pixels, N]
  const void* x;
  int height, width, channels;  // of x
  int kernel, stride, before;
  bool in_chunks;             // x
  Divider by_area, by_width;  // of y
};

// Tap blockIdx.z. Both operands lie transposed, and the sum runs over the pixels of y.
template <class AnyTile> struct ConvWeightGradLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  using Operands = ConvWeightGradOperands;
  static __device__ constexpr bool transposed_a() { return true; }
  static __device__ constexpr bool transposed_b() { return true; }

  __device__ ConvWeightGradLoader(const Operands& operands, int first_row, int first_column, int tap_index, int step)
      : o(operands), row(first_row), column(first_column), k(step * kDepth<T>), tap(tap_index),
        tap_y(tap / operands.kernel - operands.before), tap_x(tap % operands.kernel - operands.before) {}
  __device__ int steps() const { return ceil_div(o.y.lines, kDepth<T>); }
  __device__ int columns() const { return o.channels; }
  __device__ int output_row(int n) const { return n < o.y.length ? tap * o.y.length + n : -1; }

  template <class To> __device__ void a(int v, const To& to) const { fetch_transposed<T, Tile::kRows>(o.y, row, k, v, to); }
  template <class To> __device__ void b(int v, const To& to) const {
    const unsigned q = chunk_of_thread(v);
    constexpr int kLine = kLineChunks<T, Tile::kColumns, true>;
    const int channel = column + q % kLine * kVector<T>, at = under(k + q / kLine);
    if (at < 0 || channel >= o.channels) return to.put(uint4{});
    const T* from = static_cast<const T*>(o.x) + at + channel;
    if (o.in_chunks) return to.copy(from, true);
    to.put(gather_chunk<T>([&](int e) { return channel + e < o.channels ? from[e] : from_float<T>(0); }));
  }
  __device__ void next() { k += kDepth<T>; }

 private:
  // Offset of the pixel of x under the tap, for a pixel of y; −1 where there is none.
  __device__ int under(int pixel) const {
    const int image = o.by_area(pixel), in_image = pixel - image * static_cast<int>(o.by_area.divisor), line = o.by_width(in_image);
    const int r = line * o.stride + tap_y;
    const int c = (in_image - line * static_cast<int>(o.by_width.divisor)) * o.stride + tap_x;
    const bool inside = pixel < o.y.lines && static_cast<unsigned>(r) < o.height && static_cast<unsigned>(c) < o.width;
    return inside ? ((image * o.height + r) * o.width + c) * o.channels : -1;
  }

  const Operands& o;
  int row, column, k;
  int tap, tap_y, tap_x;  // its position, from the first pixel that a tap reads
};

template <class T> using ConvWeightGradTiles =
    TileList<Rated<std::conditional_t<std::is_same_v<T, float>, FloatTile<64, 64, false>, TensorCoreTile<T, 64, 64, 2, false, true>>, 100>>;

Choice choose_tile(const ConvWeightGrad& op, const Shape& y, const Shape& x, DType dtype, const Gpu& gpu) {
  const int depth = depth_of(dtype);
  return choose(shapes_of<ConvWeightGradTiles>(dtype), false, y[3], x[3], ceil_div<int64_t>(y.rows(), depth), op.kernel * op.kernel, depth,
                gpu);
}

}  // namespace

template <> void run(const ConvWeightGrad& op, Context& c) {
  const Tensor &y = c.in(0), &x = c.in(1), &g = c.out(0);
  expect_small(op.name, x.shape.elements());
  const Choice choice = choose_tile(op, y.shape, x.shape, x.dtype, c.gpu);
  const Accumulate add{data<float>(g), 1, static_cast<int>(x.shape[3]), in_chunks<float>(g)};
  for_type(x.dtype, [&]<class T>(T) {
    const ConvWeightGradOperands o{.y = matrix_of<T>(y),
                                   .x = x.data,
                                   .height = static_cast<int>(x.shape[1]),
                                   .width = static_cast<int>(x.shape[2]),
                                   .channels = static_cast<int>(x.shape[3]),
                                   .kernel = op.kernel,
                                   .stride = op.stride,
                                   .before = op.before,
                                   .in_chunks = in_chunks<T>(x),
                                   .by_area = Divider(y.shape[1] * y.shape[2]),
                                   .by_width = Divider(y.shape[2])};
    ConvWeightGradTiles<T>::with(choice.tile, [&]<class Tile>(std::type_identity<Tile>) {
      launch_gemm<ConvWeightGradLoader<Tile>>(op.name, c, o, add, y.shape[3], x.shape[3], op.kernel * op.kernel, g.shape.elements(),
                                              choice);
    });
  });
}

template <> size_t workspace_bytes(const ConvWeightGrad& op, std::span<const Value> in, const Gpu& gpu) {
  const int64_t elements = int64_t{op.kernel} * op.kernel * in[0].shape[3] * in[1].shape[3];
  return split_bytes(choose_tile(op, in[0].shape, in[1].shape, in[1].dtype, gpu), elements);
}

}  // namespace lorafuse::cuda
