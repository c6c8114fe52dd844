// Normalisation over groups of channels (arXiv:1803.08494), SiLU after it where asked, and the gradient.
//   x̂ = (x − mean)·rstd,  z = x̂·γ + β,  y = z or silu(z);  dz = dy or dy·silu'(z)
//   dx = rstd·(γ·dz − mean(γ·dz) − x̂·mean(γ·dz·x̂))         (torch:aten/src/ATen/native/group_norm.cpp)
// Statistics: per chunk of rows the mean and Σ(x − mean)² around it, combined in double in the order of the chunks.
#include <cmath>

#include "loops.h"
#include "math.h"
#include "vector.h"

namespace lorafuse::cpu {
namespace {

constexpr int64_t kMostRows = 256;  // rows that are summed in f32

// How x [B, positions, C] is cut into chunks of rows, and where the workspace keeps what. Chunk i belongs to sample i / chunks.
struct Groups {
  int64_t samples, positions, channels, groups, rows, chunks;
  int tables, scratch;  // rows of C floats in the workspace: for each sample, for each thread

  Groups(const Shape& x, int groups, int tables, int scratch)
      : samples(x[0]), positions(x.rows() / x[0]), channels(x[-1]), groups(groups), rows(std::min(rows_per_piece(channels), kMostRows)),
        chunks((positions + rows - 1) / rows), tables(tables), scratch(scratch) {}
  // mean, γ·rstd, β; shift, Σ, Σ²
  Groups(const GroupNorm& op, const Shape& x) : Groups(x, op.groups, 3, 3) {}
  // mean, γ·rstd, β, both means of the gradient; two sums
  Groups(const GroupNormGrad& op, const Shape& x) : Groups(x, op.groups, 5, 2) {}

  int64_t width() const { return channels / groups; }
  double size() const { return static_cast<double>(positions * width()); }
  int64_t offset(int64_t chunk) const { return (chunk / chunks * positions + chunk % chunks * rows) * channels; }  // of its first element
  int64_t rows_of(int64_t chunk) const { return std::min(rows, positions - chunk % chunks * rows); }

  // Workspace: two sums per chunk and group in f64, the tables, the scratch.
  int64_t sums() const { return samples * chunks * groups * 2; }
  size_t bytes(int threads) const { return sums() * sizeof(double) + (tables * samples + scratch * threads) * channels * sizeof(float); }
  double* sums_of(void* workspace, int64_t chunk) const { return static_cast<double*>(workspace) + chunk * groups * 2; }
  float* tables_of(void* workspace, int64_t sample) const {
    return reinterpret_cast<float*>(static_cast<double*>(workspace) + sums()) + sample * tables * channels;
  }
  float* scratch_of(void* workspace, int thread) const { return tables_of(workspace, samples) + thread * scratch * channels; }
};

// sums[c] = Σ_rows x[row, c]
void sum_rows(const float* x, int64_t rows, int64_t channels, float* sums) {
  std::fill_n(sums, channels, 0.0f);
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float *x0 = x + r * channels, *x1 = x0 + channels, *x2 = x1 + channels, *x3 = x2 + channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) sums[c] += (x0[c] + x1[c]) + (x2[c] + x3[c]);
  }
  for (; r < rows; r++) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) sums[c] += x[r * channels + c];
  }
}

// Mean and Σ(x − mean)² of each group in a chunk [rows, C]: out [groups, 2].
void chunk_statistics(const Groups& n, const float* x, int64_t rows, float* scratch, double* out) {
  const int64_t channels = n.channels, width = n.width();
  float *shift = scratch, *sum = shift + channels, *squares = sum + channels;
  const double elements = static_cast<double>(rows * width);
  sum_rows(x, rows, channels, sum);
  for (int64_t g = 0; g < n.groups; g++) {
    double total = 0;
    for (int64_t c = g * width; c < (g + 1) * width; c++) total += sum[c];
    std::fill_n(shift + g * width, width, static_cast<float>(total / elements));
  }
  std::fill_n(sum, 2 * channels, 0.0f);
  int64_t r = 0;
  for (; r + 2 <= rows; r += 2) {
    const float *x0 = x + r * channels, *x1 = x0 + channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      const float d0 = x0[c] - shift[c], d1 = x1[c] - shift[c];
      sum[c] += d0 + d1;
      squares[c] += d0 * d0 + d1 * d1;
    }
  }
  for (; r < rows; r++) {
#pragma omp simd
    for (int64_t c = 0; c < channels; c++) {
      const float d = x[r * channels + c] - shift[c];
      sum[c] += d;
      squares[c] += d * d;
    }
  }
  for (int64_t g = 0; g < n.groups; g++) {
    double d = 0, d2 = 0;
    for (int64_t c = g * width; c < (g + 1) * width; c++) d += sum[c], d2 += squares[c];
    out[2 * g] = shift[g * width] + d / elements;
    out[2 * g + 1] = std::fmax(0.0, d2 - d * d / elements);
  }
}

// The first three rows of a sample's tables, for the channels of one group: mean, γ·rstd, β.
void fill_tables(const Groups& n, int64_t group, const float* statistics, const Tensor& gamma, const Tensor& beta, float* tables) {
  const int64_t width = n.width(), first = group * width;
  std::fill_n(tables + first, width, statistics[0]);
  float* scale = tables + n.channels + first;
  widen_row(gamma, first, width, scale);
  for (int64_t c = 0; c < width; c++) scale[c] *= statistics[1];
  widen_row(beta, first, width, tables + 2 * n.channels + first);
}

template <bool kSilu> void normalise(const Groups& n, const float* tables, const float* x, int64_t rows, float* y) {
  const float *mean = tables, *scale = mean + n.channels, *beta = scale + n.channels;
  for (int64_t r = 0; r < rows; r++, x += n.channels, y += n.channels) {
#pragma omp simd
    for (int64_t c = 0; c < n.channels; c++) {
      const float z = (x[c] - mean[c]) * scale[c] + beta[c];
      y[c] = kSilu ? silu(z) : z;
    }
  }
}

// out [groups, 2] = Σ γ·rstd·dz and Σ γ·rstd·dz·(x − mean) of a chunk.
template <bool kSilu>
void gradient_sums(const Groups& n, const float* tables, const float* x, const float* dy, int64_t rows, float* scratch, double* out) {
  const float *mean = tables, *scale = mean + n.channels, *beta = scale + n.channels;
  float *sum = scratch, *products = sum + n.channels;
  std::fill_n(sum, 2 * n.channels, 0.0f);
  for (int64_t r = 0; r < rows; r++, x += n.channels, dy += n.channels) {
#pragma omp simd
    for (int64_t c = 0; c < n.channels; c++) {
      const float d = x[c] - mean[c];
      const float dz = kSilu ? dy[c] * silu_grad(d * scale[c] + beta[c]) : dy[c];
      sum[c] += dz;
      products[c] += dz * d;
    }
  }
  const int64_t width = n.width();
  for (int64_t g = 0; g < n.groups; g++) {
    double a = 0, b = 0;
    for (int64_t c = g * width; c < (g + 1) * width; c++) {
      a += static_cast<double>(scale[c]) * sum[c];
      b += static_cast<double>(scale[c]) * products[c];
    }
    out[2 * g] = a;
    out[2 * g + 1] = b;
  }
}

template <bool kSilu>
void input_gradient(const Groups& n, const float* tables, const float* x, const float* dy, const float* residual, int64_t rows, float* dx) {
  const float *mean = tables, *scale = mean + n.channels, *beta = scale + n.channels;
  const float *mean1 = beta + n.channels, *mean2 = mean1 + n.channels;
  for (int64_t r = 0; r < rows; r++, x += n.channels, dy += n.channels, dx += n.channels) {
#pragma omp simd
    for (int64_t c = 0; c < n.channels; c++) {
      const float d = x[c] - mean[c];
      const float dz = kSilu ? dy[c] * silu_grad(d * scale[c] + beta[c]) : dy[c];
      dx[c] = scale[c] * dz - mean1[c] - d * mean2[c];
    }
    if (residual) add_row(residual, n.channels, dx), residual += n.channels;
  }
}

}  // namespace

template <> size_t workspace_bytes(const GroupNorm& op, std::span<const Shape> inputs, int threads) {
  return Groups(op, inputs[0]).bytes(threads);
}
template <> size_t workspace_bytes(const GroupNormGrad& op, std::span<const Shape> inputs, int threads) {
  return Groups(op, inputs[0]).bytes(threads);
}

template <> void run(const GroupNorm& op, Context& c) {
  const Groups n(op, c.in(0).shape);
  const float* x = c.in(0).f32();
  float *y = c.out(0).f32(), *statistics = c.out(1).f32();
  c.threads.for_each(n.samples * n.chunks, [&](int64_t chunk, int thread) {
    chunk_statistics(n, x + n.offset(chunk), n.rows_of(chunk), n.scratch_of(c.workspace, thread), n.sums_of(c.workspace, chunk));
  });
  c.threads.for_each(n.samples, [&](int64_t sample, int) {
    for (int64_t g = 0; g < n.groups; g++) {
      const double* parts = n.sums_of(c.workspace, sample * n.chunks) + 2 * g;  // of chunk i: parts[i · stride]
      const int64_t stride = 2 * n.groups;
      double mean = 0, squares = 0;
      for (int64_t i = 0; i < n.chunks; i++) mean += parts[i * stride] * static_cast<double>(n.rows_of(i) * n.width());
      mean /= n.size();
      for (int64_t i = 0; i < n.chunks; i++) {
        const double d = parts[i * stride] - mean;
        squares += parts[i * stride + 1] + d * d * static_cast<double>(n.rows_of(i) * n.width());
      }
      float* s = statistics + (sample * n.groups + g) * 2;
      s[0] = static_cast<float>(mean);
      s[1] = static_cast<float>(1 / std::sqrt(squares / n.size() + op.eps));
      fill_tables(n, g, s, c.in(1), c.in(2), n.tables_of(c.workspace, sample));
    }
  });
  const auto kernel = op.silu ? normalise<true> : normalise<false>;
  c.threads.for_each(n.samples * n.chunks, [&](int64_t chunk, int) {
    kernel(n, n.tables_of(c.workspace, chunk / n.chunks), x + n.offset(chunk), n.rows_of(chunk), y + n.offset(chunk));
  });
}

template <> void run(const GroupNormGrad& op, Context& c) {
  const Groups n(op, c.in(0).shape);
  const float *x = c.in(0).f32(), *statistics = c.in(3).f32(), *dy = c.in(4).f32();
  const float* residual = op.residual ? c.in(residual_input(op)).f32() : nullptr;
  float* dx = c.out(0).f32();
  const auto tables = [&](int64_t sample) { return n.tables_of(c.workspace, sample); };
  for (int64_t i = 0; i < n.samples * n.groups; i++)
    fill_tables(n, i % n.groups, statistics + i * 2, c.in(1), c.in(2), tables(i / n.groups));
  const auto sum = op.silu ? gradient_sums<true> : gradient_sums<false>;
  c.threads.for_each(n.samples * n.chunks, [&](int64_t chunk, int thread) {
    sum(n, tables(chunk / n.chunks), x + n.offset(chunk), dy + n.offset(chunk), n.rows_of(chunk), n.scratch_of(c.workspace, thread),
        n.sums_of(c.workspace, chunk));
  });
  for (int64_t i = 0; i < n.samples * n.groups; i++) {
    const int64_t sample = i / n.groups, g = i % n.groups;
    const double rstd = statistics[i * 2 + 1];
    double a = 0, b = 0;
    for (int64_t chunk = sample * n.chunks; chunk < (sample + 1) * n.chunks; chunk++) {
      a += n.sums_of(c.workspace, chunk)[2 * g];
      b += n.sums_of(c.workspace, chunk)[2 * g + 1];
    }
    float* means = tables(sample) + 3 * n.channels + g * n.width();
    std::fill_n(means, n.width(), static_cast<float>(a / n.size()));
    std::fill_n(means + n.channels, n.width(), static_cast<float>(rstd * rstd * b / n.size()));
  }
  const auto kernel = op.silu ? input_gradient<true> : input_gradient<false>;
  c.threads.for_each(n.samples * n.chunks, [&](int64_t chunk, int) {
    kernel(n, tables(chunk / n.chunks), x + n.offset(chunk), dy + n.offset(chunk), residual ? residual + n.offset(chunk) : nullptr,
           n.rows_of(chunk), dx + n.offset(chunk));
  });
}

}  // namespace lorafuse::cpu
