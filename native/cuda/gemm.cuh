// Products on the GPU: loader × main loop × epilogue. MatMul and the convolutions are loaders over one kernel; products with adapters
// (lora.cu) and gradients of weights (weight_grad.cu) have kernels of their own around the same loop.
//
// c [M, N] = Σ_k a [M, k] · b [k, N], in steps of 64 bytes of k, each block one tile of c and a run of steps. The next step's chunks
// travel from global memory to registers while the tensor cores work on this one in shared memory (two buffers, one barrier a step).
// Where c has too few tiles to fill the GPU, k is split over blocks and their f32 sums are added in order (reduce_splits).
#pragma once
#include <algorithm>
#include <span>

#include "epilogue.cuh"
#include "kernels.h"
#include "main_loop.cuh"

namespace lorafuse::cuda {

// How the blocks share the work: blockIdx = (tile, split of k, phase).
struct Grid {
  int rows, columns;  // of tiles
  int steps_per_split;
  float* split_sums;  // [splits, elements] in f32, or null: k is not split
  int elements;       // of the output
};

// Blocks are numbered in bands of 8 rows of tiles, column by column, so that those which run together read the same operands.
struct TileIndex { int row, column; };
__device__ __forceinline__ TileIndex tile_of(int block, int rows, int columns) {
  constexpr int kBand = 8;
  const int band = block / (kBand * columns), in_band = block - band * kBand * columns, height = min(kBand, rows - band * kBand);
  return {band * kBand + in_band % height, in_band / height};
}

// A Loader<Tile> has:
//   Operands                                                    what the host passes
//   Loader(const Operands&, row, column, phase, step)           for the block's tile, before its first step
//   int steps()                                                 of the whole sum
//   static constexpr bool transposed_a(); bool transposed_b()   how the step's tiles lie
//   a(v, to), b(v, to)                                          the v-th chunk that this thread moves, ToRegister or ToShared
//   void next()                                                 on to the next step
//   int output_row(row), columns()                              of c; row −1 where c has no such row
template <class Loader, class Epilogue> __global__ void __launch_bounds__(kThreads, 2)
    gemm_kernel(const typename Loader::Operands operands, const Grid grid, const Epilogue epilogue) {
  using Tile = typename Loader::Tile;
  using T = typename Tile::Element;
  if constexpr (kComputes<T>) {
    __shared__ Buffers<Tile> shared;
    const TileIndex index = tile_of(blockIdx.x, grid.rows, grid.columns);
    const int row = index.row * Tile::kRows, column = index.column * Tile::kColumns;
    const int begin = blockIdx.y * grid.steps_per_split;
    Loader loader(operands, row, column, blockIdx.z, begin);
    const int count = min(grid.steps_per_split, loader.steps() - begin);

    Tile tile;
    multiply_steps(tile, loader, count, shared);

    const int n = loader.columns();
    const auto finish = [&](auto end) {
      tile.template for_each_output<decltype(end)::kCount>(shared.chunks[0], [&](int r, int c, auto& v) {
        const int out = loader.output_row(row + r);
        if (out >= 0 && column + c < n) end(out * n + column + c, column + c, v);
      });
    };
    if (grid.split_sums) finish(StoreSplit{grid.split_sums + static_cast<size_t>(blockIdx.y) * grid.elements, n});
    else finish(epilogue);
  }
}

// ---- on the host ----

struct TileShape {
  int rows, columns;
  bool only_chunks;
  double efficiency;  // of the tensor cores where the grid is large, relative to the largest tile
};

// A tile that a kernel is compiled for, and its efficiency.
template <class AnyTile, int kPercent> struct Rated {
  using Tile = AnyTile;
  static constexpr TileShape shape{Tile::kRows, Tile::kColumns, Tile::kInChunks, kPercent / 100.0};
};
template <class... Each> struct TileList {
  static constexpr TileShape shapes[sizeof...(Each)] = {Each::shape...};

  // Calls f(std::type_identity<tile>) for the chosen one.
  template <class F> static void with(size_t chosen, F f) {
    size_t i = 0;
    ((i++ == chosen ? f(std::type_identity<typename Each::Tile>()) : void()), ...);
  }
};

// Tiles<T> is the list for elements T: 16-bit types have one, floats another.
template <template <class> class Tiles> std::span<const TileShape> shapes_of(DType dtype) {
  return dtype == DType::f32 ? std::span<const TileShape>(Tiles<float>::shapes) : Tiles<__half>::shapes;
}

struct Choice {
  size_t tile;  // its position in the list
  int splits, steps_per_split;
};

constexpr int kMostSplits = 32;

// Cost model, in multiply-adds of one multiprocessor: `blocks` thread blocks of cost `block`, rounded up to whole waves.
inline double time_of(int64_t blocks, double block, const Gpu& gpu) {
  const int64_t waves = ceil_div<int64_t>(blocks, gpu.multiprocessors);
  return static_cast<double>(waves) * block * (waves == 1 ? 1.5 : 1);  // a block alone: nothing hides its latencies
}
// The cost of writing the sums of splits and adding them: `floats` that are moved.
inline double time_of_splits(int64_t floats, const Gpu& gpu) {
  constexpr double kMacsPerByte = 28;  // while it moves a byte: 2080 Ti, 256 a cycle, 9 bytes a cycle
  constexpr double kLaunch = 2e6;      // while a reduction starts
  return floats > 0 ? kLaunch + kMacsPerByte * 4 * static_cast<double>(floats) / gpu.multiprocessors : 0;
}

inline int64_t split_floats(int64_t splits, int64_t elements) { return splits > 1 ? elements * (2 * splits + 1) : 0; }

inline int depth_of(DType dtype) { return kLineBytes / static_cast<int>(size_of(dtype)); }

// The tile and number of splits of the least cost: multiply-adds of the fullest multiprocessor, and traffic of the sums of splits.
inline Choice choose(std::span<const TileShape> tiles, bool in_chunks, int64_t m, int64_t n, int64_t steps, int64_t phases, int step_depth,
                     const Gpu& gpu) {
  Choice best{0, 1, static_cast<int>(steps)};
  double least = 1e300;
  for (size_t t = 0; t < tiles.size(); t++) {
    if (!in_chunks && tiles[t].only_chunks) continue;
    for (int64_t splits = 1; splits <= std::clamp<int64_t>(steps, 1, kMostSplits); splits++) {
      const int64_t per_split = ceil_div(steps, splits);
      if (ceil_div(steps, std::max<int64_t>(per_split, 1)) != splits && splits > 1) continue;
      const int64_t blocks = ceil_div<int64_t>(m, tiles[t].rows) * ceil_div<int64_t>(n, tiles[t].columns) * splits * phases;
      const double block = static_cast<double>(per_split * step_depth) * tiles[t].rows * tiles[t].columns / tiles[t].efficiency;
      const double cost = time_of(blocks, block, gpu) + time_of_splits(split_floats(splits, m * n * phases), gpu);
      if (cost < least) least = cost, best = {t, static_cast<int>(splits), static_cast<int>(per_split)};
    }
  }
  return best;
}

inline size_t split_bytes(const Choice& choice, int64_t elements) {
  return choice.splits > 1 ? choice.splits * elements * sizeof(float) : 0;
}

// Whether the lines of a tensor of T are whole, aligned chunks.
template <class T> bool in_chunks(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.shape[-1] % kVector<T> == 0;
}

inline void expect_small(const char* op, int64_t elements) {
  CHECK(elements < int64_t{1} << 31, "NOT_SUPPORTED", "[", op, "] expected fewer than 2^31 elements in a tensor but received ", elements);
}

template <class T> Matrix matrix_of(const Tensor& t, float scale = 1) {
  expect_small("product", t.shape.elements());
  const bool is_f32 = t.dtype == DType::f32 && !std::is_same_v<T, float>;
  const bool chunks = (is_f32 || scale == 1) && in_chunks<T>(t);
  return {.data = t.data,
          .lines = static_cast<int>(t.shape.rows()),
          .length = static_cast<int>(t.shape[-1]),
          .scale = scale,
          .is_f32 = is_f32,
          .in_chunks = chunks};
}

template <class T> Store<T> store_to(const Tensor& y, const Tensor* bias_vector, const Tensor* residual) {
  expect_small("product", y.shape.elements());
  const float* bias = bias_vector ? data<const float>(*bias_vector) : nullptr;
  const bool chunks = in_chunks<T>(y) && reinterpret_cast<uintptr_t>(bias) % 16 == 0 && (!residual || in_chunks<T>(*residual));
  return {.y = data<T>(y),
          .bias = bias,
          .residual = residual ? data<const T>(*residual) : nullptr,
          .n = static_cast<int>(y.shape[-1]),
          .in_chunks = chunks};
}

template <class Loader, class Epilogue> void launch_gemm(const char* name, const Context& c, const typename Loader::Operands& operands,
                                                         const Epilogue& epilogue, int64_t m, int64_t n, int phases, int64_t elements,
                                                         const Choice& choice) {
  using Tile = typename Loader::Tile;
  const int rows = static_cast<int>(ceil_div<int64_t>(m, Tile::kRows)), columns = static_cast<int>(ceil_div<int64_t>(n, Tile::kColumns));
  float* split_sums = choice.splits > 1 ? static_cast<float*>(c.workspace) : nullptr;
  launch(name, gemm_kernel<Loader, Epilogue>, dim3(rows * columns, choice.splits, phases), kThreads, 0, c.stream, operands,
         Grid{.rows = rows,
              .columns = columns,
              .steps_per_split = choice.steps_per_split,
              .split_sums = split_sums,
              .elements = static_cast<int>(elements)},
         epilogue);
  if (split_sums)
    launch("reduce_splits", reduce_splits<Epilogue>, dim3(ceil_div<int64_t>(elements, 256)), 256, 0, c.stream, split_sums, choice.splits,
           static_cast<int>(elements), epilogue);
}

}  // namespace lorafuse::cuda
