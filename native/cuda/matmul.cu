// y = Σ scale · x · wᵀ + bias + residual. See gemm.cuh.
#include "gemm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kMostPairs = 16;

struct MatMulOperands {
  struct Pair {
    Matrix x, w;  // [M, K], [N, K] or [K, N]
    bool transposed;
  };
  Pair pairs[kMostPairs];
  int m, n, steps;
};

template <class AnyTile> struct MatMulLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static __device__ constexpr bool transposed_a() { return false; }

  using Operands = MatMulOperands;

  __device__ MatMulLoader(const Operands& o, int row, int column, int, int step) : o_(o), row_(row), column_(column) {
    while (pair_ + 1 < kMostPairs && step > 0) {
      const int steps = ceil_div(o.pairs[pair_].x.length, kDepth<T>);
      if (step < steps) break;
      step -= steps;
      pair_++;
    }
    begin(step * kDepth<T>);
  }
  __device__ int steps() const { return o_.steps; }
  __device__ int columns() const { return o_.n; }
  __device__ int output_row(int row) const { return row < o_.m ? row : -1; }
  __device__ bool transposed_b() const { return o_.pairs[pair_].transposed; }

  template <class To> __device__ void a(int v, const To& to) const {
    if constexpr (Tile::kInChunks) return from_x_.copy(now().x, false, k_, v, to);
    const unsigned q = chunk_of_thread(v);
    fetch<T>(now().x, row_ + q / 4, k_ + q % 4 * kVector<T>, to);
  }
  template <class To> __device__ void b(int v, const To& to) const {
    if constexpr (Tile::kInChunks) return from_w_.copy(now().w, now().transposed, k_, v, to);
    const unsigned q = chunk_of_thread(v);
    constexpr int kLine = kLineChunks<T, Tile::kColumns, true>;
    const int line = now().transposed ? k_ + q / kLine : column_ + q / 4;
    const int along = now().transposed ? column_ + q % kLine * kVector<T> : k_ + q % 4 * kVector<T>;
    fetch<T>(now().w, line, along, to);
  }
  __device__ void next() {
    k_ += kDepth<T>;
    if (k_ >= now().x.length) {
      pair_++;
      begin(0);
    } else if constexpr (Tile::kInChunks) {
      from_x_.next(now().x, false);
      from_w_.next(now().w, now().transposed);
    }
  }

 private:
  __device__ const MatMulOperands::Pair& now() const { return o_.pairs[pair_]; }
  __device__ void begin(int k) {
    k_ = k;
    if constexpr (Tile::kInChunks) {
      from_x_.begin(now().x, false, row_, k);
      from_w_.begin(now().w, now().transposed, column_, k);
    }
  }

  const Operands& o_;
  int row_, column_, k_, pair_ = 0;
  Walk<T, Tile::kRows> from_x_;
  Walk<T, Tile::kColumns> from_w_;
};

template <class T> using MatMulTiles =
    std::conditional_t<std::is_same_v<T, float>,
                       TileList<Rated<FloatTile<128, 64, true>, 100>, Rated<FloatTile<64, 64, false>, 80>,
                                Rated<FloatTile<16, 128, false>, 40>, Rated<FloatTile<128, 16, false>, 40>>,
                       TileList<Rated<TensorCoreTile<T, 128, 128, 2, true>, 100>, Rated<TensorCoreTile<T, 128, 64, 4, true>, 85>,
                                Rated<TensorCoreTile<T, 64, 64, 2, true>, 75>, Rated<TensorCoreTile<T, 64, 64, 2, false>, 60>,
                                Rated<TensorCoreTile<T, 16, 128, 1, false>, 25>, Rated<TensorCoreTile<T, 128, 16, 8, false>, 25>>>;

Choice choose_mat_mul(DType dtype, bool in_chunks, int64_t m, int64_t n, int64_t steps, const Gpu& gpu) {
  return choose(shapes_of<MatMulTiles>(dtype), in_chunks, m, n, steps, 1, depth_of(dtype), gpu);
}

}  // namespace

template <> size_t workspace_bytes(const MatMul& op, std::span<const Value> in, const Gpu& gpu) {
  if (op.epilogue.gate != Gate::none) return gated_workspace_bytes(op, in, gpu);
  const int64_t m = in[0].shape.rows(), n = in[1].shape[op.pairs[0].transposed ? 1 : 0];
  int64_t steps = 0;
  for (size_t i = 0; i < op.pairs.size(); i++) steps += ceil_div<int64_t>(in[op.x(i)].shape[-1], depth_of(in[0].dtype));
  size_t bytes = 0;
  for (bool in_chunks : {false, true})  // where the operands will lie is not known yet
    bytes = std::max(bytes, split_bytes(choose_mat_mul(in[0].dtype, in_chunks, m, n, steps, gpu), m * n));
  return bytes;
}

template <> void run(const MatMul& op, Context& c) {
  if (op.epilogue.gate != Gate::none) return run_gated(op, c);
  CHECK(op.pairs.size() <= kMostPairs, "NOT_SUPPORTED", "[mat_mul] expected at most ", kMostPairs, " pairs but received ", op.pairs.size());
  const Tensor& y = c.out(0);
  const int64_t m = y.shape.rows(), n = y.shape[-1];
  for_type(y.dtype, [&]<class T>(T) {
    MatMulOperands o{{}, static_cast<int>(m), static_cast<int>(n), 0};
    bool chunks = true;
    for (size_t i = 0; i < op.pairs.size(); i++) {
      o.pairs[i] = {matrix_of<T>(c.in(op.x(i))), matrix_of<T>(c.in(op.w(i)), op.pairs[i].scale), op.pairs[i].transposed};
      o.steps += ceil_div(o.pairs[i].x.length, kDepth<T>);
      chunks = chunks && o.pairs[i].x.in_chunks && o.pairs[i].w.in_chunks && !o.pairs[i].w.is_f32;
    }
    const Store<T> store = store_to<T>(y, c.in_or_null(bias_input(op)), c.in_or_null(residual_input(op)));
    const Choice choice = choose_mat_mul(y.dtype, chunks, m, n, o.steps, c.gpu);
    MatMulTiles<T>::with(choice.tile, [&]<class Tile>(std::type_identity<Tile>) {
      launch_gemm<MatMulLoader<Tile>>("mat_mul", c, o, store, m, n, 1, m * n, choice);
    });
  });
}

}  // namespace lorafuse::cuda
