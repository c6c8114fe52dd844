// Gradients of trainable matrices. They are small and many: one launch computes all of a node's that use the same tile.
#include "gemm.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kMostProblems = 48;  // of a launch: its parameters are 4 KiB at most

struct Problem {
  Matrix dy, x;             // [M, N], [M, K]
  float* g;                 // [N, K]
  float* split_sums;        // [splits, N, K], or null: M is not split
  int splits, first_block;  // its blocks follow those of the problem before it
  float scale;
  bool in_chunks;  // g

  __device__ __forceinline__ int elements() const { return dy.length * x.length; }
};
struct Problems {
  Problem each[kMostProblems];
  int count, steps_per_split;
};
static_assert(sizeof(Problems) <= 4096);

// The problem that this block works at.
__device__ __forceinline__ int problem_of_block(const Problems& problems) {
  int p = 0;
  while (p + 1 < problems.count && static_cast<int>(blockIdx.x) >= problems.each[p + 1].first_block) p++;
  return p;
}

// dyᵀ · x: both operands lie transposed, and the sum runs over their rows.
template <class AnyTile> class WeightGradLoader {
 public:
  using Tile = AnyTile;
  using T = typename Tile::Element;
  static __device__ constexpr bool transposed_a() { return true; }
  static __device__ constexpr bool transposed_b() { return true; }

  __device__ WeightGradLoader(const Matrix& dy, const Matrix& x, int row, int column, int step)
      : dy_(of_t(dy)), x_(of_t(x)), row_(row), column_(column), k_(step * kDepth<T>) {
    if constexpr (Tile::kInChunks) {
      from_dy_.begin(dy_, true, row, k_);
      from_x_.begin(x_, true, column, k_);
    }
  }

  template <class To> __device__ void a(int v, const To& to) const {
    if constexpr (Tile::kInChunks) from_dy_.copy(dy_, true, k_, v, to);
    else fetch_transposed<T, Tile::kRows>(dy_, row_, k_, v, to);
  }
  template <class To> __device__ void b(int v, const To& to) const {
    if constexpr (Tile::kInChunks) from_x_.copy(x_, true, k_, v, to);
    else fetch_transposed<T, Tile::kColumns>(x_, column_, k_, v, to);
  }
  __device__ void next() {
    k_ += kDepth<T>;
    if constexpr (Tile::kInChunks) {
      from_dy_.next(dy_, true);
      from_x_.next(x_, true);
    }
  }

 private:
  // Tells the compiler that elements are T and unscaled, so it drops those branches.
  static __device__ __forceinline__ Matrix of_t(const Matrix& m) { return {m.data, m.lines, m.length, 1, false, m.in_chunks}; }

  const Matrix dy_, x_;
  int row_, column_, k_;
  Walk<T, Tile::kRows> from_dy_;
  Walk<T, Tile::kColumns> from_x_;
};

template <class Tile> __global__ void __launch_bounds__(kThreads, resident_blocks(3)) weight_grad_kernel(const Problems problems) {
  using T = typename Tile::Element;
  if constexpr (kComputes<T>) {
    __shared__ Buffers<Tile> shared;
    const Problem& o = problems.each[problem_of_block(problems)];
    const int n = o.dy.length, k = o.x.length, rows = ceil_div(n, Tile::kRows), columns = ceil_div(k, Tile::kColumns);
    const int block = blockIdx.x - o.first_block, split = block / (rows * columns), index = block % (rows * columns);
    const int row = index % rows * Tile::kRows, column = index / rows * Tile::kColumns;
    const int begin = split * problems.steps_per_split, steps = ceil_div(o.dy.lines, kDepth<T>);

    Tile tile;
    WeightGradLoader<Tile> loader(o.dy, o.x, row, column, begin);
    multiply_steps(tile, loader, min(problems.steps_per_split, steps - begin), shared);

    const auto finish = [&](auto end) {
      tile.template for_each_output<decltype(end)::kCount>(shared.chunks[0], [&](int r, int c, auto& v) {
        if (row + r < n && column + c < k) end((row + r) * k + column + c, column + c, v);
      });
    };
    if (o.split_sums) finish(StoreSplit{o.split_sums + static_cast<size_t>(split) * o.elements(), k});
    else finish(Accumulate{o.g, o.scale, k, o.in_chunks});
  }
}

// Adds the splits of each gradient, in order.
__global__ void __launch_bounds__(256) reduce_weight_grads(const Problems problems) {
  const Problem& o = problems.each[problem_of_block(problems)];
  const int at = (blockIdx.x - o.first_block) * 256 + threadIdx.x, elements = o.elements();
  if (at >= elements) return;
  float sum = 0;
  for (int s = 0; s < o.splits; s++) sum += o.split_sums[static_cast<size_t>(s) * elements + at];
  o.g[at] += o.scale * sum;
}

template <class T> using WeightGradTiles = std::conditional_t<
    std::is_same_v<T, float>,
    TileList<Rated<FloatTile<64, 64, false>, 100>, Rated<FloatTile<16, 128, true>, 40>, Rated<FloatTile<128, 16, true>, 40>>,
    TileList<Rated<TensorCoreTile<T, 64, 64, 2, false, true>, 100>, Rated<TensorCoreTile<T, 16, 128, 1, true, true>, 40>,
             Rated<TensorCoreTile<T, 128, 16, 8, true, true>, 40>>>;

// How one gradient is computed.
struct Share {
  int64_t n, k, steps;
  bool in_chunks;     // dy and x, by their widths: they are aligned
  size_t shape = 0;   // position in WeightGradTiles
  int64_t tiles = 0;  // of that shape
  int64_t steps_per_split = 0, splits = 1;
  size_t split_sums = 0;  // where the sums of its splits begin, in floats
};

Share share_of(DType dtype, const Shape& dy, const Shape& x) {
  const int64_t vector = 16 / static_cast<int64_t>(size_of(dtype)), n = dy[-1], k = x[-1];
  Share share{.n = n, .k = k, .steps = ceil_div<int64_t>(dy.rows(), depth_of(dtype)), .in_chunks = n % vector == 0 && k % vector == 0};
  const auto shapes = shapes_of<WeightGradTiles>(dtype);
  double least = 1e300;
  for (size_t i = 0; i < shapes.size(); i++) {
    const TileShape& shape = shapes[i];
    if (shape.only_chunks && !share.in_chunks) continue;
    const int64_t tiles = ceil_div<int64_t>(n, shape.rows) * ceil_div<int64_t>(k, shape.columns);
    const double cost = static_cast<double>(tiles) * shape.rows * shape.columns / shape.efficiency;
    if (cost < least) least = cost, share.shape = i, share.tiles = tiles;
  }
  return share;
}

// Splits the sums of all gradients of one launch alike, as choose() does that of one product.
void split(std::vector<Share>& shares, const std::vector<size_t>& launch, DType dtype, const Gpu& gpu) {
  const TileShape& shape = shapes_of<WeightGradTiles>(dtype)[shares[launch[0]].shape];
  int64_t most = 1;
  for (size_t i : launch) most = std::max(most, shares[i].steps);
  double least = 1e300;
  int64_t best = most;
  for (int64_t splits = 1; splits <= std::min<int64_t>(most, kMostSplits); splits++) {
    const int64_t per_split = ceil_div(most, splits);
    int64_t blocks = 0, floats = 0;
    for (size_t i : launch) {
      const int64_t its_splits = ceil_div(shares[i].steps, per_split);
      blocks += shares[i].tiles * its_splits;
      floats += split_floats(its_splits, shares[i].n * shares[i].k);
    }
    const double block = static_cast<double>(per_split * depth_of(dtype)) * shape.rows * shape.columns / shape.efficiency;
    const double cost = time_of(blocks, block, gpu) + time_of_splits(floats, gpu);
    if (cost < least) least = cost, best = per_split;
  }
  for (size_t i : launch) shares[i].steps_per_split = best, shares[i].splits = ceil_div(shares[i].steps, best);
}

struct Layout {
  std::vector<Share> shares;                  // of each gradient
  std::vector<std::vector<size_t>> launches;  // which of them run together
  size_t split_floats = 0;
};

// in(i) is input i, as a Value or as a Tensor.
template <class Inputs> Layout layout_of(size_t count, Inputs in, const Gpu& gpu) {
  const DType dtype = in(0).dtype;
  Layout l;
  std::vector<size_t> open(shapes_of<WeightGradTiles>(dtype).size(), SIZE_MAX);  // the launch of each shape that has room
  for (size_t i = 0; i < count; i++) {
    l.shares.push_back(share_of(dtype, in(2 * i).shape, in(2 * i + 1).shape));
    size_t& launch = open[l.shares[i].shape];
    if (launch == SIZE_MAX || l.launches[launch].size() == kMostProblems) {
      launch = l.launches.size();
      l.launches.emplace_back();
    }
    l.launches[launch].push_back(i);
  }
  for (const auto& launch : l.launches) split(l.shares, launch, dtype, gpu);
  for (Share& share : l.shares) {
    share.split_sums = l.split_floats;
    if (share.splits > 1) l.split_floats += ceil_div<size_t>(share.splits * share.n * share.k, 4) * 4;
  }
  return l;
}

}  // namespace

template <> size_t workspace_bytes(const WeightGrad& op, std::span<const Value> in, const Gpu& gpu) {
  const auto input = [&](size_t i) -> const Value& { return in[i]; };
  return layout_of(op.scales.size(), input, gpu).split_floats * sizeof(float);
}

template <> void run(const WeightGrad& op, Context& c) {
  const Layout l = layout_of(op.scales.size(), [&](size_t i) -> const Tensor& { return c.in(i); }, c.gpu);
  const auto append = [](Problem problem, int64_t its_blocks, Problems& to, int& blocks) {
    problem.first_block = blocks;
    to.each[to.count++] = problem;
    blocks += static_cast<int>(its_blocks);
  };
  for_type(c.in(0).dtype, [&]<class T>(T) {
    for (const auto& members : l.launches) {
      const Share& first = l.shares[members[0]];
      Problems products{{}, 0, static_cast<int>(first.steps_per_split)}, sums{};
      int product_blocks = 0, sum_blocks = 0;
      for (size_t i : members) {
        const Share& share = l.shares[i];
        const Matrix dy = matrix_of<T>(c.in(2 * i)), x = matrix_of<T>(c.in(2 * i + 1));
        CHECK(!share.in_chunks || (dy.in_chunks && x.in_chunks), "NOT_SUPPORTED",
              "[weight_grad] expected dy and x at multiples of 16 bytes");
        const Problem one{.dy = dy,
                          .x = x,
                          .g = data<float>(c.out(i)),
                          .split_sums = share.splits > 1 ? static_cast<float*>(c.workspace) + share.split_sums : nullptr,
                          .splits = static_cast<int>(share.splits),
                          .first_block = 0,
                          .scale = op.scales[i],
                          .in_chunks = in_chunks<float>(c.out(i))};
        append(one, share.tiles * share.splits, products, product_blocks);
        if (share.splits > 1) append(one, ceil_div<int64_t>(share.n * share.k, 256), sums, sum_blocks);
      }
      WeightGradTiles<T>::with(first.shape, [&]<class Tile>(std::type_identity<Tile>) {
        launch("weight_grad", weight_grad_kernel<Tile>, product_blocks, kThreads, 0, c.stream, products);
      });
      if (sums.count) launch("reduce_weight_grads", reduce_weight_grads, sum_blocks, 256, 0, c.stream, sums);
    }
  });
}

}  // namespace lorafuse::cuda
