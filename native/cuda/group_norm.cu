// Normalisation over groups of channels (arXiv:1803.08494), SiLU after it where asked, and the gradient. Each is three launches:
// sums of parts of groups, what follows from them for each group, the elements. x and dy are read twice.
//   x̂ = (x − mean)·rstd,  z = x̂·γ + β,  y = z or silu(z);  dz = dy or dy·silu'(z)
//   dx = rstd·(γ·dz − mean(γ·dz) − x̂·mean(γ·dz·x̂))                              (torch:aten/src/ATen/native/group_norm.cpp)
// Statistics: the mean of each part, then Σ(x − mean)² around it, both from registers; parts are combined in their order
// (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
#include <algorithm>
#include <numeric>

#include "kernels.h"
#include "math.cuh"
#include "vector.cuh"

namespace lorafuse::cuda {
namespace {

constexpr int kThreads = 256, kBlocks = 3;  // of a block; on a multiprocessor
constexpr int kWarps = kThreads / 32;
constexpr int kHeld = 8;  // vectors of a thread

// How blocks lie over x [B, positions, C]. A block has a strip of channels, of whole parts, and a chunk of positions: `rows` of them side
// by side, kHeld times. Each thread stays in one column of vectors, so what belongs to its channels is read once.
struct Layout {
  int positions, vectors, groups;
  int width, part;      // channels of a group; of a part: a group, or a divisor of one that is wider than a block
  int columns, strips;  // vectors of a strip
  int rows, chunks;

  Layout(const Shape& x, int groups, int lanes)
      : positions(x.rows() / x[0]), vectors(x[-1] / lanes), groups(groups), width(x[-1] / groups), part(width) {
    const auto unit = [&] { return std::lcm(part, lanes) / lanes; };
    while (unit() > kThreads) {
      do part--;
      while (width % part != 0);
    }
    double most = 0;
    for (int c = unit(); c <= kThreads && c * lanes / part <= kThreads; c += unit()) {  // the widest that leaves the fewest threads idle
      const int count = ceil_div(vectors, c);
      const double busy = static_cast<double>(vectors) / count * (kThreads / c);
      if (busy >= most) most = busy, columns = c, strips = count;
      if (c >= vectors) break;
    }
    rows = kThreads / columns;
    chunks = ceil_div(positions, chunk());
  }

  __host__ __device__ int chunk() const { return rows * kHeld; }
  __host__ __device__ int parts() const { return groups * (width / part); }  // side by side in C
  __device__ int positions_of(int chunk_index) const { return min(chunk(), positions - chunk_index * chunk()); }
  dim3 grid(int64_t samples) const { return dim3(chunks, strips, samples); }
  size_t sums_bytes(int64_t samples) const { return samples * parts() * chunks * sizeof(float2); }
};

// Where a thread is. Chunk blockIdx.x, strip blockIdx.y, sample blockIdx.z.
template <int N>
struct Place {
  int channel;          // the first of its vector
  int position, end;    // its first position, and where those of the chunk end: it has every `rows`-th
  int64_t first, step;  // offset of its first vector, and from one to the next

  __device__ __forceinline__ explicit Place(const Layout& n) {
    const int column = threadIdx.x % n.columns, row = threadIdx.x / n.columns, v = blockIdx.y * n.columns + column;
    const int begin = blockIdx.x * n.chunk();
    channel = v * N;
    position = begin + row;
    end = row < n.rows && v < n.vectors ? begin + n.positions_of(blockIdx.x) : 0;
    first = ((static_cast<int64_t>(blockIdx.z) * n.positions + position) * n.vectors + v) * N;
    step = static_cast<int64_t>(n.rows) * n.vectors * N;
  }
};

// Calls f(k, offset) for the k-th vector of this thread.
template <int N, class F>
__device__ __forceinline__ void for_held(const Layout& n, const Place<N>& at, F f) {
#pragma unroll
  for (int k = 0; k < kHeld; k++)
    if (at.position + k * n.rows < at.end) f(k, at.first + k * at.step);
}

// Calls f(i, part of the strip) for the N channels of a thread.
template <int N, class F>
__device__ __forceinline__ void for_parts(const Layout& n, F f) {
  const int channel = threadIdx.x % n.columns * N;
  int part = channel / n.part, inside = channel % n.part;
#pragma unroll
  for (int i = 0; i < N; i++) {
    f(i, part);
    if (++inside == n.part) inside = 0, part++;
  }
}

template <int N>
struct Scratch {
  float threads[kThreads * N];   // every thread's sums of its channels
  float channels[kThreads * N];  // of the strip
  float parts[kThreads];         // of the strip
};

// Where float i of Scratch::threads is: 32 bytes a thread, written as two vectors, would lie in half of the banks at a time.
template <int N>
__device__ __forceinline__ int swizzled(int i) { return N == 8 ? i ^ (i >> 5 & 1) << 2 : i; }

// scratch.parts[p] = Σ over part p of the strip of all threads' `sums`; to be read before the next call.
template <int N>
__device__ __forceinline__ void sum_parts(const Layout& n, const float (&sums)[N], Scratch<N>& scratch) {
  if constexpr (N == 1) {
    scratch.threads[threadIdx.x] = sums[0];
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      *reinterpret_cast<float4*>(scratch.threads + swizzled<N>(threadIdx.x * N + i)) = {sums[i], sums[i + 1], sums[i + 2], sums[i + 3]};
  }
  __syncthreads();
  const int channels = n.columns * N;
  for (int c = threadIdx.x; c < channels; c += kThreads) {
    float sum = 0;
    for (int r = 0; r < n.rows; r++) sum += scratch.threads[swizzled<N>(r * channels + c)];
    scratch.channels[c] = sum;
  }
  __syncthreads();
  for (int p = threadIdx.x / 32; p < channels / n.part; p += kWarps) {
    float sum = 0;
    for (int c = threadIdx.x % 32; c < n.part; c += 32) sum += scratch.channels[p * n.part + c];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) scratch.parts[p] = sum;
  }
  __syncthreads();
}

// The place in sums [B, parts, chunks] of the part of the strip that this thread writes; null where it has none.
template <int N>
__device__ __forceinline__ float2* own_part(const Layout& n, float2* sums) {
  const int each = n.columns * N / n.part, part = blockIdx.y * each + threadIdx.x;
  if (threadIdx.x >= each || part >= n.parts()) return nullptr;
  return sums + (static_cast<int64_t>(blockIdx.z) * n.parts() + part) * n.chunks + blockIdx.x;
}

// sums [B, parts, chunks] = mean and Σ(x − mean)² of each part.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks) group_moments(Layout n, const T* x, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ Scratch<N> scratch;
    const Place<N> at(n);
    const float size = static_cast<float>(n.positions_of(blockIdx.x) * n.part);
    Vector<T, N> held[kHeld];
    float shift[N], sum[N] = {}, squares[N] = {};
    for_held(n, at, [&](int k, int64_t offset) { held[k].load(x + offset); });
    for_held(n, at, [&](int k, int64_t) {
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += held[k][i];
    });
    sum_parts(n, sum, scratch);
    float2* out = own_part<N>(n, sums);
    const float own_shift = out ? scratch.parts[threadIdx.x] / size : 0;
    for_parts<N>(n, [&](int i, int part) { shift[i] = scratch.parts[part] / size, sum[i] = 0; });

    for_held(n, at, [&](int k, int64_t) {
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float d = held[k][i] - shift[i];
        sum[i] += d;
        squares[i] += d * d;
      }
    });
    sum_parts(n, sum, scratch);
    const float rest = out ? scratch.parts[threadIdx.x] : 0;  // what rounding left of Σ(x − shift) corrects the mean
    sum_parts(n, squares, scratch);
    if (out) *out = {own_shift + rest / size, fmaxf(0.0f, scratch.parts[threadIdx.x] - rest * (rest / size))};
  }
}

// statistics [B, groups] = mean, rstd. Group blockIdx.x of all B · groups.
__global__ void __launch_bounds__(kThreads) group_statistics(Layout n, float eps, const float2* sums, float2* statistics) {
  __shared__ float scratch[2][32];
  const int count = n.width / n.part * n.chunks;  // of a group, chunks innermost
  const float2* own = sums + static_cast<int64_t>(blockIdx.x) * count;
  const float shift = own[0].x, size = static_cast<float>(n.positions) * n.width;
  const auto elements = [&](int i) { return static_cast<float>(n.positions_of(i % n.chunks) * n.part); };
  float sum = 0, squares = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += elements(i) * (own[i].x - shift);
  const float mean = shift + block_sum<kThreads>(sum, scratch[0]) / size;
  for (int i = threadIdx.x; i < count; i += kThreads) squares += own[i].y + elements(i) * (own[i].x - mean) * (own[i].x - mean);
  squares = block_sum<kThreads>(squares, scratch[1]);
  if (threadIdx.x == 0) statistics[blockIdx.x] = {mean, 1 / sqrtf(squares / size + eps)};
}

// What the N channels of a thread have in common over positions.
template <int N>
struct Channels {
  float mean[N], scale[N], beta[N];  // scale: γ·rstd

  __device__ __forceinline__ Channels(const Layout& n, int channel, const float* gamma, const float* beta_, const float2* statistics) {
    load(gamma + channel, scale);
    load(beta_ + channel, beta);
    int group = channel / n.width, inside = channel % n.width;
    const float2* own = statistics + blockIdx.z * n.groups;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float2 s = own[group];
      mean[i] = s.x;
      scale[i] *= s.y;
      if (++inside == n.width) inside = 0, group++;
    }
  }
};

template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_normalise(Layout n, const T* x, const float* gamma, const float* beta, const float2* statistics, T* y) {
  if constexpr (kComputes<T>) {
    const Place<N> at(n);
    if (at.position >= at.end) return;
    const Channels<N> c(n, at.channel, gamma, beta, statistics);
    for_held(n, at, [&](int, int64_t offset) {
      float a[N];
      load(x + offset, a);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float z = (a[i] - c.mean[i]) * c.scale[i] + c.beta[i];
        a[i] = kSilu ? silu(z) : z;
      }
      store(y + offset, a);
    });
  }
}

// sums [B, parts, chunks] = Σ γ·rstd·dz and Σ γ·rstd·dz·(x − mean) of each part.
template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient_sums(Layout n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, float2* sums) {
  if constexpr (kComputes<T>) {
    __shared__ Scratch<N> scratch;
    const Place<N> at(n);
    float sum[N] = {}, products[N] = {};
    if (at.position < at.end) {
      const Channels<N> c(n, at.channel, gamma, beta, statistics);
      for_held(n, at, [&](int, int64_t offset) {
        Vector<T, N> a, g;
        a.load(x + offset);
        g.load(dy + offset);
#pragma unroll
        for (int i = 0; i < N; i++) {
          const float d = a[i] - c.mean[i], dz = kSilu ? g[i] * silu_grad(d * c.scale[i] + c.beta[i]) : g[i];
          sum[i] += dz;
          products[i] += dz * d;
        }
      });
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] *= c.scale[i], products[i] *= c.scale[i];
    }
    sum_parts(n, sum, scratch);
    float2* out = own_part<N>(n, sums);
    const float own_sum = out ? scratch.parts[threadIdx.x] : 0;
    sum_parts(n, products, scratch);
    if (out) *out = {own_sum, scratch.parts[threadIdx.x]};
  }
}

// means [B, groups] = mean(γ·rstd·dz) and rstd² · mean(γ·rstd·dz·(x − mean)). Group blockIdx.x of all B · groups.
__global__ void __launch_bounds__(kThreads) group_gradient_means(Layout n, const float2* sums, const float2* statistics, float2* means) {
  __shared__ float scratch[2][32];
  const int count = n.width / n.part * n.chunks;
  const float2* own = sums + static_cast<int64_t>(blockIdx.x) * count;
  const float size = static_cast<float>(n.positions) * n.width;
  float sum = 0, products = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += own[i].x, products += own[i].y;
  sum = block_sum<kThreads>(sum, scratch[0]);
  products = block_sum<kThreads>(products, scratch[1]);
  const float rstd = statistics[blockIdx.x].y;
  if (threadIdx.x == 0) means[blockIdx.x] = {sum / size, rstd * rstd * (products / size)};
}

template <class T, int N, bool kSilu>
__global__ void __launch_bounds__(kThreads, kBlocks)
    group_gradient(Layout n, const T* x, const float* gamma, const float* beta, const float2* statistics, const T* dy, const float2* means, T* dx) {
  if constexpr (kComputes<T>) {
    const Place<N> at(n);
    if (at.position >= at.end) return;
    const Channels<N> c(n, at.channel, gamma, beta, statistics);
    float mean1[N], mean2[N];
    int group = at.channel / n.width, inside = at.channel % n.width;
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float2 m = means[blockIdx.z * n.groups + group];
      mean1[i] = m.x, mean2[i] = m.y;
      if (++inside == n.width) inside = 0, group++;
    }
    for_held(n, at, [&](int, int64_t offset) {
      Vector<T, N> a, g;
      a.load(x + offset);
      g.load(dy + offset);
      float out[N];
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float d = a[i] - c.mean[i], dz = kSilu ? g[i] * silu_grad(d * c.scale[i] + c.beta[i]) : g[i];
        out[i] = c.scale[i] * dz - mean1[i] - d * mean2[i];
      }
      store(dx + offset, out);
    });
  }
}

// Of Layout, for the type and channels of x.
size_t sums_bytes(const ::lorafuse::Value& x, int groups) {
  size_t bytes = 0;
  for_vectors(x.dtype, x.shape[-1], [&](auto, auto n) { bytes = Layout(x.shape, groups, n).sums_bytes(x.shape[0]); });
  return bytes;
}

}  // namespace

size_t workspace_bytes(const GroupNorm& op, std::span<const ::lorafuse::Value> inputs, const Card&) { return sums_bytes(inputs[0], op.groups); }
size_t workspace_bytes(const GroupNormGrad& op, std::span<const ::lorafuse::Value> inputs, const Card&) {
  return sums_bytes(inputs[0], op.groups) + inputs[0].shape[0] * op.groups * sizeof(float2);
}

void run(const GroupNorm& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  float2 *sums = static_cast<float2*>(c.workspace), *statistics = data<float2>(c.out(1));
  for_vectors(c.in(0).dtype, shape[-1], [&](auto type, auto lanes) {
    using T = decltype(type);
    const Layout n(shape, op.groups, lanes);
    const T* x = data<T>(c.in(0));
    launch("group_moments", group_moments<T, lanes>, n.grid(shape[0]), kThreads, 0, c.stream, n, x, sums);
    launch("group_statistics", group_statistics, shape[0] * op.groups, kThreads, 0, c.stream, n, op.eps, sums, statistics);
    launch("group_normalise", op.silu ? group_normalise<T, lanes, true> : group_normalise<T, lanes, false>, n.grid(shape[0]), kThreads, 0,
           c.stream, n, x, gamma, beta, statistics, data<T>(c.out(0)));
  });
}

void run(const GroupNormGrad& op, Context& c) {
  const Shape& shape = c.in(0).shape;
  const float *gamma = c.in(1).f32(), *beta = c.in(2).f32();
  const float2* statistics = data<float2>(c.in(3));
  for_vectors(c.in(0).dtype, shape[-1], [&](auto type, auto lanes) {
    using T = decltype(type);
    const Layout n(shape, op.groups, lanes);
    const T *x = data<T>(c.in(0)), *dy = data<T>(c.in(4));
    float2 *sums = static_cast<float2*>(c.workspace), *means = sums + n.sums_bytes(shape[0]) / sizeof(float2);
    launch("group_gradient_sums", op.silu ? group_gradient_sums<T, lanes, true> : group_gradient_sums<T, lanes, false>, n.grid(shape[0]), kThreads,
           0, c.stream, n, x, gamma, beta, statistics, dy, sums);
    launch("group_gradient_means", group_gradient_means, shape[0] * op.groups, kThreads, 0, c.stream, n, sums, statistics, means);
    launch("group_gradient", op.silu ? group_gradient<T, lanes, true> : group_gradient<T, lanes, false>, n.grid(shape[0]), kThreads, 0, c.stream, n,
           x, gamma, beta, statistics, dy, means, data<T>(c.out(0)));
  });
}

}  // namespace lorafuse::cuda
