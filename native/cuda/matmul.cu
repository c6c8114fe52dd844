// y = Σ scale · x · wᵀ + bias + residual, and the gradient of a trainable w. See gemm.cuh.
#include "gemm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kMostPairs = 16;

template <class T>
Matrix matrix(const Tensor& t, float scale = 1) {
  expect_small("mat_mul", t.shape.elements());
  const bool other = t.dtype == DType::f32 && !std::is_same_v<T, float>;
  return {t.data, static_cast<int>(t.shape.rows()), static_cast<int>(t.shape[-1]), scale, other, !other && scale == 1 && in_chunks<T>(t)};
}

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
    k_ = step * kDepth<T>;
  }
  __device__ int steps() const { return o_.steps; }
  __device__ int columns() const { return o_.n; }
  __device__ int output_row(int row) const { return row < o_.m ? row : -1; }
  __device__ bool transposed_b() const { return o_.pairs[pair_].transposed; }

  __device__ uint4 a(int v) const {
    const int q = v * kThreads + threadIdx.x;
    return fetch<T>(o_.pairs[pair_].x, row_ + q / 4, k_ + q % 4 * kVector<T>);
  }
  __device__ uint4 b(int v) const {
    const int q = v * kThreads + threadIdx.x;
    constexpr int kLine = kLineChunks<T, Tile::kColumns, true>;
    const MatMulOperands::Pair& p = o_.pairs[pair_];
    const int line = p.transposed ? k_ + q / kLine : column_ + q / 4;
    const int along = p.transposed ? column_ + q % kLine * kVector<T> : k_ + q % 4 * kVector<T>;
    return fetch<T>(p.w, line, along);
  }
  __device__ void next() {
    k_ += kDepth<T>;
    if (k_ >= o_.pairs[pair_].x.length) k_ = 0, pair_++;
  }

 private:
  const Operands& o_;
  int row_, column_, k_, pair_ = 0;
};

// g [N, K] = dyᵀ · x: both lie transposed, and what is summed over are the rows of dy [M, N] and x [M, K].
template <class AnyTile>
struct WeightGradLoader {
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static __device__ constexpr bool transposed_a() { return true; }

  struct Operands {
    Matrix dy, x;
  };

  __device__ WeightGradLoader(const Operands& o, int row, int column, int, int step) : o_(o), row_(row), column_(column), k_(step * kDepth<T>) {}
  __device__ int steps() const { return ceil_div(o_.dy.lines, kDepth<T>); }
  __device__ int columns() const { return o_.x.length; }
  __device__ int output_row(int row) const { return row < o_.dy.length ? row : -1; }
  static __device__ constexpr bool transposed_b() { return true; }

  template <int kRows>
  __device__ uint4 chunk(const Matrix& m, int v, int first) const {
    const int q = v * kThreads + threadIdx.x;
    constexpr int kLine = kLineChunks<T, kRows, true>;
    return fetch<T>(m, k_ + q / kLine, first + q % kLine * kVector<T>);
  }
  __device__ uint4 a(int v) const { return chunk<Tile::kRows>(o_.dy, v, row_); }
  __device__ uint4 b(int v) const { return chunk<Tile::kColumns>(o_.x, v, column_); }
  __device__ void next() { k_ += kDepth<T>; }

 private:
  const Operands& o_;
  int row_, column_, k_;
};

constexpr TileShape kMatMulShapes[] = {{128, 128, 1}, {128, 64, 0.85}, {64, 64, 0.7}, {16, 128, 0.25}, {128, 16, 0.25}};
constexpr TileShape kMatMulFloatShapes[] = {{128, 64, 1}, {64, 64, 0.8}, {16, 128, 0.4}, {128, 16, 0.4}};
constexpr TileShape kWeightGradShapes[] = {{64, 64, 1}, {16, 128, 0.4}, {128, 16, 0.4}};

template <class T, class F>
void with_mat_mul_tile(size_t chosen, F f) {
  if constexpr (std::is_same_v<T, float>)
    with_tile<FloatTile<128, 64>, FloatTile<64, 64>, FloatTile<16, 128>, FloatTile<128, 16>>(chosen, f);
  else
    with_tile<TensorCoreTile<T, 128, 128, 2>, TensorCoreTile<T, 128, 64, 4>, TensorCoreTile<T, 64, 64, 2>, TensorCoreTile<T, 16, 128, 1>,
              TensorCoreTile<T, 128, 16, 8>>(chosen, f);
}
template <class T, class F>
void with_weight_grad_tile(size_t chosen, F f) {
  if constexpr (std::is_same_v<T, float>) with_tile<FloatTile<64, 64>, FloatTile<16, 128>, FloatTile<128, 16>>(chosen, f);
  else with_tile<TensorCoreTile<T, 64, 64, 2>, TensorCoreTile<T, 16, 128, 1>, TensorCoreTile<T, 128, 16, 8>>(chosen, f);
}

int depth_of(DType dtype) { return kLineBytes / static_cast<int>(size_of(dtype)); }

// From the shape and type of the first x, the widths of all x and the outputs' number.
Choice choose_mat_mul(DType dtype, int64_t m, int64_t n, int64_t steps, const Card& card) {
  const std::span<const TileShape> shapes = dtype == DType::f32 ? std::span<const TileShape>(kMatMulFloatShapes) : kMatMulShapes;
  return choose(shapes, m, n, steps, 1, depth_of(dtype), card);
}
Choice choose_weight_grad(DType dtype, const Shape& dy, const Shape& x, const Card& card) {
  return choose(kWeightGradShapes, dy[-1], x[-1], ceil_div<int64_t>(dy.rows(), depth_of(dtype)), 1, depth_of(dtype), card);
}

}  // namespace

size_t workspace_bytes(const MatMul& op, std::span<const Value> in, const Card& card) {
  const int64_t m = in[0].shape.rows(), n = in[1].shape[op.pairs[0].transposed ? 1 : 0];
  int64_t steps = 0;
  for (size_t i = 0; i < op.pairs.size(); i++) steps += ceil_div<int64_t>(in[2 * i].shape[-1], depth_of(in[0].dtype));
  return partial_bytes(choose_mat_mul(in[0].dtype, m, n, steps, card), m * n);
}

void run(const MatMul& op, Context& c) {
  CHECK(op.pairs.size() <= kMostPairs, "NOT_SUPPORTED", "[mat_mul] expected at most ", kMostPairs, " pairs but received ", op.pairs.size());
  const Tensor& y = c.out(0);
  const int64_t m = y.shape.rows(), n = y.shape[-1];
  for_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    MatMulOperands operands{};
    operands.m = static_cast<int>(m), operands.n = static_cast<int>(n);
    for (size_t i = 0; i < op.pairs.size(); i++) {
      operands.pairs[i] = {matrix<T>(c.in(2 * i)), matrix<T>(c.in(2 * i + 1), op.pairs[i].scale), op.pairs[i].transposed};
      operands.steps += ceil_div(operands.pairs[i].x.length, kDepth<T>);
    }
    const Tensor* residual = op.residual ? &c.last_in() : nullptr;
    const Store<T> store{data<T>(y), op.bias ? data<const float>(c.in(2 * op.pairs.size())) : nullptr, residual ? data<const T>(*residual) : nullptr,
                         static_cast<int>(n), n % 8 == 0 && in_chunks<T>(y) && (!residual || in_chunks<T>(*residual))};
    const Choice choice = choose_mat_mul(y.dtype, m, n, operands.steps, c.card);
    with_mat_mul_tile<T>(choice.tile, [&](auto tile) {
      launch_gemm<MatMulLoader<typename decltype(tile)::type>>("mat_mul", c, operands, store, m, n, 1, m * n, choice);
    });
  });
}

size_t workspace_bytes(const WeightGrad&, std::span<const Value> in, const Card& card) {
  return partial_bytes(choose_weight_grad(in[0].dtype, in[0].shape, in[1].shape, card), in[0].shape[-1] * in[1].shape[-1]);
}

void run(const WeightGrad& op, Context& c) {
  const Tensor &dy = c.in(0), &x = c.in(1), &g = c.out(0);
  const Choice choice = choose_weight_grad(dy.dtype, dy.shape, x.shape, c.card);
  for_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    with_weight_grad_tile<T>(choice.tile, [&](auto tile) {
      using Loader = WeightGradLoader<typename decltype(tile)::type>;
      launch_gemm<Loader>("weight_grad", c, typename Loader::Operands{matrix<T>(dy), matrix<T>(x)}, Accumulate{data<float>(g), op.scale, static_cast<int>(g.shape[-1])},
                          g.shape[0], g.shape[-1], 1, g.shape.elements(), choice);
    });
  });
}

}  // namespace lorafuse::cuda
