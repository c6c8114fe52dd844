// Ops that move elements: concatenation, slices, rows of tables. Formulas in graph/ops.h.
#include <algorithm>

#include "kernels.h"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

// Calls f(Word()) with the widest type that divides all of `bytes`: rows are copied in words of it, whatever their elements are.
template <class F> void for_words(std::initializer_list<int64_t> bytes, F f) {
  const auto all = [&](int64_t size) { return std::ranges::all_of(bytes, [&](int64_t b) { return b % size == 0; }); };
  if (all(sizeof(uint4))) f(uint4());
  else if (all(sizeof(uint2))) f(uint2());
  else if (all(sizeof(uint32_t))) f(uint32_t());
  else f(uint16_t());
}

// y [rows, first + second] = a [rows, first] ‖ b [rows, second]
template <class Word> __global__ void __launch_bounds__(kBlock)
    concat(uint32_t rows, uint32_t first, uint32_t second, const Word* a, const Word* b, Word* y) {
  const uint32_t i = blockIdx.x * kBlock + threadIdx.x, all = first + second, r = i / all, c = i % all;
  if (r < rows) y[i] = c < first ? a[static_cast<int64_t>(r) * first + c] : b[static_cast<int64_t>(r) * second + c - first];
}

// y [rows, width] = x[:, begin : begin + width], x [rows, all]
template <class Word> __global__ void __launch_bounds__(kBlock)
    slice(uint32_t rows, uint32_t all, uint32_t begin, uint32_t width, const Word* x, Word* y) {
  const uint32_t i = blockIdx.x * kBlock + threadIdx.x, r = i / width, c = i % width;
  if (r < rows) y[i] = x[static_cast<int64_t>(r) * all + begin + c];
}

// y [rows, C] = tokens[id] + positions[row % length]; NaN where there is no such token.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    embedding(uint32_t rows, uint32_t length, uint32_t vectors, uint32_t vocabulary, const int32_t* ids, const T* tokens,
              const T* positions, T* y) {
  if constexpr (kComputes<T>) {
    const uint32_t i = blockIdx.x * kBlock + threadIdx.x, r = i / vectors, v = i % vectors;
    if (r >= rows) return;
    const uint32_t id = static_cast<uint32_t>(ids[r]);
    float out[N];
    if (id < vocabulary) {
      const Vector<T, N> token(tokens + (static_cast<int64_t>(id) * vectors + v) * N);
      const Vector<T, N> position(positions + (static_cast<int64_t>(r % length) * vectors + v) * N);
#pragma unroll
      for (int k = 0; k < N; k++) out[k] = token[k] + position[k];
    } else {
#pragma unroll
      for (int k = 0; k < N; k++) out[k] = __int_as_float(0x7fffffff);
    }
    store(y + static_cast<int64_t>(i) * N, out);
  }
}

// A word of NaNs, whatever its elements are.
template <class Word> __device__ __forceinline__ Word not_a_number() {
  if constexpr (std::is_same_v<Word, uint4>) return {~0u, ~0u, ~0u, ~0u};
  else if constexpr (std::is_same_v<Word, uint2>) return {~0u, ~0u};
  else return static_cast<Word>(~0u);
}

// y [count, width] = x[from[r]], x [rows, width]; NaN where there is no such row.
template <class Word> __global__ void __launch_bounds__(kBlock)
    gather(uint32_t count, uint32_t width, uint32_t rows, const Word* x, const int32_t* from, Word* y) {
  const uint32_t i = blockIdx.x * kBlock + threadIdx.x, r = i / width, c = i % width;
  if (r >= count) return;
  const uint32_t row = static_cast<uint32_t>(from[r]);
  if (row < rows) y[i] = x[static_cast<int64_t>(row) * width + c];
  else y[i] = not_a_number<Word>();
}

// dx [rows, C] = the sums of the dy [count, C] whose `to` is the row, first to last. A warp has 32 vectors of a row; where the row is not
// gathered, as most are once, its dx is one dy or 0.
template <class T, int N> __global__ void __launch_bounds__(kBlock)
    gather_grad(uint32_t rows, uint32_t vectors, uint32_t count, const int32_t* to, const T* dy, T* dx) {
  if constexpr (kComputes<T>) {
    const uint32_t lane = threadIdx.x % 32, warp = (blockIdx.x * kBlock + threadIdx.x) / 32, strips = ceil_div(vectors, 32u);
    const uint32_t row = warp / strips, v = warp % strips * 32 + lane;
    if (row >= rows) return;
    float sum[N] = {};
    for (uint32_t first = 0; first < count; first += 32) {
      const bool own = first + lane < count && static_cast<uint32_t>(to[first + lane]) == row;
      for (uint32_t left = __ballot_sync(0xffffffffu, own); left; left &= left - 1)
        if (v < vectors) add(dy + (static_cast<int64_t>(first + __ffs(left) - 1) * vectors + v) * N, sum);
    }
    if (v < vectors) store(dx + (static_cast<int64_t>(row) * vectors + v) * N, sum);
  }
}

}  // namespace

template <> void run(const Concat&, Context& c) {
  const int64_t rows = c.out(0).shape.rows(), each = size_of(c.out(0).dtype);
  const int64_t first = c.in(0).shape[-1] * each, second = c.in(1).shape[-1] * each;
  for_words({first, second}, [&]<class Word>(Word) {
    constexpr int64_t kSize = sizeof(Word);
    launch_each("concat", concat<Word>, {rows * (first + second) / kSize}, c.stream, rows, first / kSize, second / kSize, c.in(0).data,
                c.in(1).data, c.out(0).data);
  });
}

template <> void run(const Slice& op, Context& c) {
  const int64_t rows = c.out(0).shape.rows(), each = size_of(c.out(0).dtype);
  const int64_t all = c.in(0).shape[-1] * each, begin = op.begin * each, width = (op.end - op.begin) * each;
  for_words({all, begin, width}, [&]<class Word>(Word) {
    constexpr int64_t kSize = sizeof(Word);
    launch_each("slice", slice<Word>, {rows * width / kSize}, c.stream, rows, all / kSize, begin / kSize, width / kSize, c.in(0).data,
                c.out(0).data);
  });
}

template <> void run(const Embedding&, Context& c) {
  const int64_t rows = c.in(0).shape.elements(), channels = c.out(0).shape[-1];
  for_vectors(c.out(0).dtype, channels, [&]<class T>(T, auto n) {
    launch_each("embedding", embedding<T, n>, {rows * channels / n}, c.stream, rows, c.in(0).shape[1], channels / n, c.in(1).shape[0],
                c.in(0).i32(), data<T>(c.in(1)), data<T>(c.in(2)), data<T>(c.out(0)));
  });
}

template <> void run(const Gather& op, Context& c) {
  const int64_t count = c.in(1).shape.elements(), bytes = c.in(0).shape[-1] * size_of(c.in(0).dtype);
  for_words({bytes}, [&]<class Word>(Word) {
    constexpr int64_t kSize = sizeof(Word);
    launch_each(op.name, gather<Word>, {count * bytes / kSize}, c.stream, count, bytes / kSize, c.in(0).shape.rows(), c.in(0).data,
                c.in(1).i32(), c.out(0).data);
  });
}

template <> void run(const GatherGrad& op, Context& c) {
  const int64_t rows = op.shape.rows(), channels = op.shape[-1];
  for_vectors(c.out(0).dtype, channels, [&]<class T>(T, auto n) {
    const int64_t vectors = channels / n;
    launch_each(op.name, gather_grad<T, n>, {rows * ceil_div<int64_t>(vectors, 32) * 32}, c.stream, rows, vectors, c.in(0).shape.elements(),
                c.in(0).i32(), data<T>(c.in(1)), data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
