// Group norm: how its blocks lie over x [B, positions, C], their sums over groups of channels, and the values that follow from them.
#pragma once
#include <algorithm>
#include <bit>
#include <numeric>

#include "kernels.h"
#include "math.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {

// A block has a strip of channels, of whole parts, and a chunk of positions: `rows` of them side by side, `per_thread` times. Each thread
// stays in one column of vectors, so what belongs to its channels is read once.
struct Groups {
  static constexpr int kThreads = 256;
  static constexpr int kMostVectors = 8;  // of a thread
  static constexpr int kColumns = 16;     // where strips are cut, they have at least as many vectors: 256 neighbouring bytes
  static constexpr int kFill = 160;       // blocks that fill a GPU

  int positions, vectors, groups;
  int width, part;               // channels of a group; of a part: a group, or a divisor of one that is wider than a block
  int columns, strips;           // vectors of a strip
  int rows, per_thread, chunks;  // per_thread: vectors of a thread
  int lanes;                     // of a warp that add up a part
  int pitch;                     // of the sums of a row of threads in GroupScratch
  bool whole;                    // a block has all positions of its groups, so that no other block needs to know what it finds

  // `n` channels are a vector, as for_groups() finds it.
  Groups(const Shape& x, int groups, int n)
      : positions(to_int(x.rows() / x[0], "positions")), vectors(to_int(x[-1] / n, "vectors")), groups(groups), width(x[-1] / groups),
        part(width) {
    const auto unit = [&] { return std::lcm(part, n) / n; };  // the fewest columns of whole parts
    while (unit() > kThreads) {
      do part--;
      while (width % part != 0);
    }
    columns = unit();
    whole = part == width && ceil_div(positions, kThreads / columns) <= kMostVectors;
    if (!whole) columns = widest(unit());
    strips = ceil_div(vectors, columns);
    rows = kThreads / columns;
    per_thread = whole ? kMostVectors : std::clamp<int>(x[0] * strips * ceil_div(positions, rows) / kFill, 1, kMostVectors);
    chunks = ceil_div(positions, chunk());
    lanes = std::min<int>(32, std::bit_floor<unsigned>(kThreads / (columns * n / part)));
    // Lanes read a few columns of several rows: where rows begin in the same bank, each continues after the one before.
    pitch = columns % 32 == 0 ? columns + 32 / lanes * part / n % 32 : columns;
  }

  __host__ __device__ int chunk() const { return rows * per_thread; }
  __host__ __device__ int parts() const { return groups * (width / part); }  // side by side in C
  __device__ int positions_of(int chunk_index) const { return min(chunk(), positions - chunk_index * chunk()); }
  dim3 grid(int64_t samples) const { return dim3(chunks, strips, samples); }
  size_t sums(int64_t samples) const { return whole ? 0 : samples * parts() * chunks; }  // pairs of floats, one for each part of a block

 private:
  // The columns of the fewest strips of those that leave the fewest threads idle.
  int widest(int unit) const {
    int best = 0, most = 0;
    for (int count = 1; count == 1 || ceil_div(vectors, count) >= kColumns; count++) {
      const int c = ceil_div(ceil_div(vectors, unit), count) * unit, busy = c <= kThreads ? vectors / count * (kThreads / c) : 0;
      if (busy > most) most = busy, best = c;
    }
    return best;
  }
};

// The vectors of a thread. Strip blockIdx.y, sample blockIdx.z.
template <int N> struct Position {
  int channel;          // the first of its vector
  int position, end;    // its first position, and where those of the chunk end: it has every `rows`-th
  int64_t first, step;  // offset of its first vector, and from one to the next

  __device__ __forceinline__ Position(const Groups& n, int chunk) {
    const int column = threadIdx.x % n.columns, row = threadIdx.x / n.columns, v = blockIdx.y * n.columns + column;
    const int begin = chunk * n.chunk();
    channel = v * N;
    position = begin + row;
    end = row < n.rows && v < n.vectors ? begin + n.positions_of(chunk) : 0;
    first = ((static_cast<int64_t>(blockIdx.z) * n.positions + position) * n.vectors + v) * N;
    step = static_cast<int64_t>(n.rows) * n.vectors * N;
  }
  __device__ __forceinline__ bool idle() const { return position >= end; }
};

// Calls f(k, offset) for the k-th vector of this thread.
template <int N, class F> __device__ __forceinline__ void for_own_vectors(const Groups& n, const Position<N>& at, F f) {
#pragma unroll
  for (int k = 0; k < Groups::kMostVectors; k++)
    if (at.position + k * n.rows < at.end) f(k, at.first + k * at.step);
}

// N channels that lie in one group, or part, or in two: the first `count` of them in `index`, the others in index + 1.
template <int N> struct Split {
  int index, count;

  __device__ __forceinline__ Split(int channel, int width) : index(channel / width), count(min(N, width - channel % width)) {}
  __device__ __forceinline__ bool two() const { return count < N; }
  // Whether channel i lies in the second.
  __device__ __forceinline__ bool operator()(int i) const { return i >= count; }
};

// Which parts of the strip this thread's channels lie in.
template <int N> __device__ __forceinline__ Split<N> split_of(const Groups& n) { return Split<N>(threadIdx.x % n.columns * N, n.part); }

// The part of the strip that this thread looks after, as one of all parts of the sample; −1 where it has none.
template <int N> __device__ __forceinline__ int own_part(const Groups& n) {
  const int each = n.columns * N / n.part, part = blockIdx.y * each + threadIdx.x;
  return threadIdx.x < each && part < n.parts() ? part : -1;
}

struct GroupScratch {
  float threads[2][2][Groups::kThreads + 8 * 31 + 20];  // every thread's two sums, of one part and, in other banks, of the next
  float parts[2][Groups::kThreads];                     // of the strip
};

// scratch.parts[s][p] = Σ over part p of the strip of all threads' sums[s] of their channels, for all to read.
template <int kSums, int N>
__device__ __forceinline__ void sum_parts(const Groups& n, const Split<N>& split, const float (&sums)[kSums][N], GroupScratch& scratch) {
  const int row = threadIdx.x / n.columns, own = row * n.pitch + threadIdx.x % n.columns;
#pragma unroll
  for (int s = 0; s < kSums; s++) {
    float first = 0, second = 0;
#pragma unroll
    for (int i = 0; i < N; i++) (split(i) ? second : first) += sums[s][i];
    if (row >= n.rows) continue;
    scratch.threads[s][0][own] = first;
    if constexpr (N > 1) scratch.threads[s][1][own] = second;
  }
  __syncthreads();
  // Part p begins in column `begin`, there as the second of two if its first channel is not the first of a vector.
  const int p = threadIdx.x / n.lanes, channel = p * n.part, begin = channel / N, count = (channel + n.part - 1) / N - begin + 1;
  const bool shares = channel % N != 0;
  float total[kSums] = {};
  if (p < n.columns * N / n.part) {
    for (int i = threadIdx.x % n.lanes; i < count * n.rows; i += n.lanes) {
      const int column = i % count, at = i / count * n.pitch + begin + column, slot = shares && column == 0;
#pragma unroll
      for (int s = 0; s < kSums; s++) total[s] += scratch.threads[s][slot][at];
    }
  }
#pragma unroll
  for (int s = 0; s < kSums; s++) {
    for (int offset = n.lanes / 2; offset; offset /= 2) total[s] += __shfl_xor_sync(0xffffffffu, total[s], offset);
    if (threadIdx.x % n.lanes == 0) scratch.parts[s][p] = total[s];
  }
  __syncthreads();
}

// Calls f(T(), Count<N>()) with how many channels are a vector: one where groups are narrower, or wider than a block.
template <class F> void for_groups(DType dtype, int64_t channels, int groups, F f) {
  for_type(dtype, [&]<class T>(T type) {
    constexpr int kMost = kVector<T>;
    const int64_t width = channels / groups;
    if (channels % kMost == 0 && kMost <= width && width <= Groups::kThreads) f(type, Count<kMost>());
    else f(type, Count<1>());
  });
}

// The values of both groups of a split, in [groups].
template <int N> struct Pair {
  float2 first, second;
  __device__ __forceinline__ Pair(const Split<N>& split, const float2* values)
      : first(values[split.index]), second(split.two() ? values[split.index + 1] : first) {}
};

// Constants of a thread's N channels.
template <int N> struct Channels {
  float mean[N], scale[N], beta[N];  // scale: γ·rstd

  // `s`, or `statistics` [groups]: mean and rstd of the groups of `split`.
  __device__ __forceinline__ void load(int channel, const Split<N>& split, const float* gamma, const float* beta_,
                                       const float2* statistics) {
    load(channel, split, gamma, beta_, Pair<N>(split, statistics));
  }
  __device__ __forceinline__ void load(int channel, const Split<N>& split, const float* gamma, const float* beta_, const Pair<N>& s) {
    cuda::load(gamma + channel, scale);
    cuda::load(beta_ + channel, beta);
#pragma unroll
    for (int i = 0; i < N; i++) {
      mean[i] = split(i) ? s.second.x : s.first.x;
      scale[i] *= split(i) ? s.second.y : s.first.y;
    }
  }
};

// Pairs of floats that the workspace has for sums of parts.
inline size_t group_sums(const Value& x, int groups) {
  size_t sums = 0;
  for_groups(x.dtype, x.shape[-1], groups, [&](auto, auto lanes) { sums = Groups(x.shape, groups, lanes).sums(x.shape[0]); });
  return sums;
}

constexpr int kGroupBlocks = 3;  // of a group norm's kernels on a multiprocessor

}  // namespace lorafuse::cuda
