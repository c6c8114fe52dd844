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

template <class AnyTile>
struct MatMulLoader {
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

  template <class To>
  __device__ void a(int v, const To& to) const {
    if constexpr (Tile::kInChunks) return from_x_.copy(now().x, false, k_, v, to);
    const unsigned q = chunk_of_thread(v);
    fetch<T>(now().x, row_ + q / 4, k_ + q % 4 * kVector<T>, to);
  }
  template <class To>
  __device__ void b(int v, const To& to) const {
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

constexpr TileShape kMatMulShapes[] = {{128, 128, true, 1},  {128, 64, true, 0.85},  {64, 64, true, 0.75},
                                       {64, 64, false, 0.6}, {16, 128, false, 0.25}, {128, 16, false, 0.25}};
constexpr TileShape kMatMulFloatShapes[] = {{128, 64, true, 1}, {64, 64, false, 0.8}, {16, 128, false, 0.4}, {128, 16, false, 0.4}};

template <class T, class F>
void with_mat_mul_tile(size_t chosen, F f) {
  if constexpr (std::is_same_v<T, float>)
    with_tile<FloatTile<128, 64, true>, FloatTile<64, 64, false>, FloatTile<16, 128, false>, FloatTile<128, 16, false>>(chosen, f);
  else
    with_tile<TensorCoreTile<T, 128, 128, 2, true>, TensorCoreTile<T, 128, 64, 4, true>, TensorCoreTile<T, 64, 64, 2, true>,
              TensorCoreTile<T, 64, 64, 2, false>, TensorCoreTile<T, 16, 128, 1, false>, TensorCoreTile<T, 128, 16, 8, false>>(chosen, f);
}

Choice choose_mat_mul(DType dtype, bool in_chunks, int64_t m, int64_t n, int64_t steps, const Gpu& gpu) {
  const std::span<const TileShape> shapes = dtype == DType::f32 ? std::span<const TileShape>(kMatMulFloatShapes) : kMatMulShapes;
  return choose(shapes, in_chunks, m, n, steps, 1, depth_of(dtype), gpu);
}

}  // namespace

size_t workspace_bytes(const MatMul& op, std::span<const Value> in, const Gpu& gpu) {
  if (op.gate != Gate::none) return gated_workspace_bytes(op, in, gpu);
  const int64_t m = in[0].shape.rows(), n = in[1].shape[op.pairs[0].transposed ? 1 : 0];
  int64_t steps = 0;
  for (size_t i = 0; i < op.pairs.size(); i++) steps += ceil_div<int64_t>(in[2 * i].shape[-1], depth_of(in[0].dtype));
  size_t bytes = 0;
  for (bool in_chunks : {false, true})  // where the operands will lie is not known yet
    bytes = std::max(bytes, partial_bytes(choose_mat_mul(in[0].dtype, in_chunks, m, n, steps, gpu), m * n));
  return bytes;
}

void run(const MatMul& op, Context& c) {
  if (op.gate != Gate::none) return run_gated(op, c);
  CHECK(op.pairs.size() <= kMostPairs, "NOT_SUPPORTED", "[mat_mul] expected at most ", kMostPairs, " pairs but received ", op.pairs.size());
  const Tensor& y = c.out(0);
  const Tensor* residual = op.residual ? &c.last_in() : nullptr;
  const float* bias = op.bias ? data<const float>(c.in(2 * op.pairs.size())) : nullptr;
  const int64_t m = y.shape.rows(), n = y.shape[-1];
  for_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    MatMulOperands o{{}, static_cast<int>(m), static_cast<int>(n), 0};
    bool chunks = true;
    for (size_t i = 0; i < op.pairs.size(); i++) {
      o.pairs[i] = {matrix_of<T>(c.in(2 * i)), matrix_of<T>(c.in(2 * i + 1), op.pairs[i].scale), op.pairs[i].transposed};
      o.steps += ceil_div(o.pairs[i].x.length, kDepth<T>);
      chunks = chunks && o.pairs[i].x.in_chunks && o.pairs[i].w.in_chunks && !o.pairs[i].w.is_f32;
    }
    const Store<T> store = store_to<T>(y, bias, residual);
    const Choice choice = choose_mat_mul(y.dtype, chunks, m, n, o.steps, c.gpu);
    with_mat_mul_tile<T>(choice.tile, [&](auto tile) {
      launch_gemm<MatMulLoader<typename decltype(tile)::type>>("mat_mul", c, o, store, m, n, 1, m * n, choice);
    });
  });
}

}  // namespace lorafuse::cuda
