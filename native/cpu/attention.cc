// softmax(q·kᵀ / √d)·v in blocks, the scores never in memory as a whole, and its gradient from the saved log-sum-exp.
// Formulas: FlashAttention-2 (arXiv:2307.08691), algorithms 1 and 2. Heads are columns [h·d, (h+1)·d) of [B, T, C].
#include <algorithm>
#include <cmath>

#include "gemm.h"
#include "math.h"

namespace lorafuse::cpu {
namespace {

constexpr int64_t kQueries = 126;  // rows of a block of queries: whole tiles for 14 and for 6 rows
constexpr int64_t kKeys = 256;     // columns of a block of keys, forward
constexpr int64_t kKeysGrad = 128;
constexpr float kMasked = -1e30f;

int64_t tokens(const Shape& x) { return x.rows() / x[0]; }

// The size in floats of a packed b [k, columns].
int64_t packed_size(int64_t k, int64_t columns) { return k * ((columns + kPanel - 1) / kPanel * kPanel); }

// Scratch of one thread, handed out piece by piece.
struct Scratch {
  float* next;
  float* take(int64_t floats) {
    float* piece = next;
    next += (floats + 15) / 16 * 16;
    return piece;
  }
};

int64_t forward_floats(int64_t d) {
  return kQueries * kKeys + packed_size(d, kKeys) + packed_size(kKeys, d) + kQueries * d + 2 * kQueries + 6 * 16;
}
int64_t gradient_floats(int64_t d, int64_t queries) {
  return 2 * kQueries * kKeysGrad + 2 * packed_size(d, kKeysGrad) + packed_size(kKeysGrad, d) + 2 * packed_size(kQueries, d) +
         2 * kKeysGrad * d + queries + 10 * 16;
}

float row_max(const float* s, int64_t n) {
  float m = kMasked;
#pragma omp simd reduction(max : m)
  for (int64_t j = 0; j < n; j++) m = std::max(m, s[j]);
  return m;
}

// s = exp(s − shift), returns the sum.
float exponentiate(float* s, int64_t n, float shift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; j++) {
    s[j] = exp_(s[j] - shift);
    sum += s[j];
  }
  return sum;
}

// One head of one sample: base pointers at its first row and column, `stride` floats between rows.
struct Head {
  const Context& c;
  int64_t batch, head, d, stride;
  Head(const Context& c, int heads, int64_t index)
      : c(c), batch(index / heads), head(index % heads), d(c.in(0).shape[-1] / heads), stride(c.in(0).shape[-1]) {}
  float* at(const Tensor& t) const { return t.f32() + batch * tokens(t.shape) * stride + head * d; }
};

void forward_block(const Attention& op, const Head& h, int64_t first, Scratch scratch) {
  const Context& c = h.c;
  const int64_t d = h.d, keys = tokens(c.in(1).shape), queries = tokens(c.in(0).shape), rows = std::min(kQueries, queries - first);
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  const float *q = h.at(c.in(0)) + first * h.stride, *k = h.at(c.in(1)), *v = h.at(c.in(2));
  float *s = scratch.take(kQueries * kKeys), *kt = scratch.take(packed_size(d, kKeys)), *vp = scratch.take(packed_size(kKeys, d));
  float *o = scratch.take(kQueries * d), *max = scratch.take(kQueries), *sum = scratch.take(kQueries);
  std::fill_n(o, rows * d, 0.0f);
  std::fill_n(max, rows, kMasked);
  std::fill_n(sum, rows, 0.0f);
  const int64_t end = op.causal ? std::min(keys, first + rows) : keys;
  for (int64_t j = 0; j < end; j += kKeys) {
    const int64_t n = std::min(kKeys, end - j);
    pack_columns(k + j * h.stride, h.stride, d, n, scale, kt);
    pack_rows(v + j * h.stride, h.stride, n, d, 1, vp);
    std::fill_n(s, rows * n, 0.0f);
    multiply_packed(rows, n, d, {q, h.stride, 1}, kt, s, n);
    for (int64_t r = 0; r < rows; r++) {
      float* row = s + r * n;
      if (op.causal)
        for (int64_t x = std::max<int64_t>(0, first + r + 1 - j); x < n; x++) row[x] = kMasked;
      const float larger = std::max(max[r], row_max(row, n)), shrink = exp_(max[r] - larger);
      sum[r] = sum[r] * shrink + exponentiate(row, n, larger);
      max[r] = larger;
      for (int64_t x = 0; x < d; x++) o[r * d + x] *= shrink;
    }
    multiply_packed(rows, d, n, {s, n, 1}, vp, o, d);
  }
  float* out = h.at(c.out(0)) + first * h.stride;
  float* log_sum_exp = c.out(1).f32() + (h.batch * op.heads + h.head) * queries + first;
  for (int64_t r = 0; r < rows; r++) {
    const float inverse = 1 / sum[r];
    for (int64_t x = 0; x < d; x++) out[r * h.stride + x] = o[r * d + x] * inverse;
    log_sum_exp[r] = max[r] + std::log(sum[r]);
  }
}

// One whole head. The outer loop goes over blocks of keys, so that dk and dv stay in cache, and dq is always summed in the same order.
void gradient_head(const AttentionGrad& op, const Head& h, Scratch scratch) {
  const Context& c = h.c;
  const int64_t d = h.d, queries = tokens(c.in(0).shape), keys = tokens(c.in(1).shape), stride = h.stride;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  const float *q = h.at(c.in(0)), *k = h.at(c.in(1)), *v = h.at(c.in(2)), *o = h.at(c.in(3)), *dout = h.at(c.in(5));
  const float* log_sum_exp = c.in(4).f32() + (h.batch * op.heads + h.head) * queries;
  float *dq = h.at(c.out(0)), *dk = h.at(c.out(1)), *dv = h.at(c.out(2));
  float *p = scratch.take(kQueries * kKeysGrad), *ds = scratch.take(kQueries * kKeysGrad);
  float *kt = scratch.take(packed_size(d, kKeysGrad)), *vt = scratch.take(packed_size(d, kKeysGrad)),
        *kp = scratch.take(packed_size(kKeysGrad, d));
  float *qp = scratch.take(packed_size(kQueries, d)), *dop = scratch.take(packed_size(kQueries, d));
  float *dk_sum = scratch.take(kKeysGrad * d), *dv_sum = scratch.take(kKeysGrad * d), *delta = scratch.take(queries);

  for (int64_t i = 0; i < queries; i++) {  // delta = Σ o · do
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t x = 0; x < d; x++) sum += o[i * stride + x] * dout[i * stride + x];
    delta[i] = sum;
    std::fill_n(dq + i * stride, d, 0.0f);
  }
  for (int64_t j = 0; j < keys; j += kKeysGrad) {
    const int64_t n = std::min(kKeysGrad, keys - j);
    pack_columns(k + j * stride, stride, d, n, scale, kt);
    pack_columns(v + j * stride, stride, d, n, 1, vt);
    pack_rows(k + j * stride, stride, n, d, scale, kp);
    std::fill_n(dk_sum, n * d, 0.0f);
    std::fill_n(dv_sum, n * d, 0.0f);
    // The block of the first query that sees one of these keys.
    for (int64_t i = op.causal ? j / kQueries * kQueries : 0; i < queries; i += kQueries) {
      const int64_t rows = std::min(kQueries, queries - i);
      pack_rows(q + i * stride, stride, rows, d, scale, qp);
      pack_rows(dout + i * stride, stride, rows, d, 1, dop);
      std::fill_n(p, rows * n, 0.0f);
      std::fill_n(ds, rows * n, 0.0f);
      multiply_packed(rows, n, d, {q + i * stride, stride, 1}, kt, p, n);
      multiply_packed(rows, n, d, {dout + i * stride, stride, 1}, vt, ds, n);
      for (int64_t r = 0; r < rows; r++) {
        float *pr = p + r * n, *dsr = ds + r * n;
        const float shift = log_sum_exp[i + r], mean = delta[i + r];
#pragma omp simd
        for (int64_t x = 0; x < n; x++) {
          pr[x] = exp_(pr[x] - shift);
          dsr[x] = pr[x] * (dsr[x] - mean);
        }
        if (op.causal)
          for (int64_t x = std::max<int64_t>(0, i + r + 1 - j); x < n; x++) pr[x] = dsr[x] = 0;
      }
      multiply_packed(n, d, rows, {p, 1, n}, dop, dv_sum, d);
      multiply_packed(n, d, rows, {ds, 1, n}, qp, dk_sum, d);
      multiply_packed(rows, d, n, {ds, n, 1}, kp, dq + i * stride, stride);
    }
    for (int64_t r = 0; r < n; r++) {
      std::copy_n(dk_sum + r * d, d, dk + (j + r) * stride);
      std::copy_n(dv_sum + r * d, d, dv + (j + r) * stride);
    }
  }
}

}  // namespace

template <> void run(const Attention& op, Context& c) {
  const int64_t blocks = (tokens(c.in(0).shape) + kQueries - 1) / kQueries, heads = c.in(0).shape[0] * op.heads;
  const int64_t floats = forward_floats(c.in(0).shape[-1] / op.heads);
  c.threads.for_each(heads * blocks, [&](int64_t job, int thread) {
    forward_block(op, Head(c, op.heads, job / blocks), job % blocks * kQueries,
                  Scratch{static_cast<float*>(c.workspace) + thread * floats});
  });
}

template <> void run(const AttentionGrad& op, Context& c) {
  const int64_t floats = gradient_floats(c.in(0).shape[-1] / op.heads, tokens(c.in(0).shape));
  c.threads.for_each(c.in(0).shape[0] * op.heads, [&](int64_t job, int thread) {
    gradient_head(op, Head(c, op.heads, job), Scratch{static_cast<float*>(c.workspace) + thread * floats});
  });
}

template <> size_t workspace_bytes(const Attention& op, std::span<const Shape> in, int threads) {
  return threads * forward_floats(in[0][-1] / op.heads) * sizeof(float);
}
template <> size_t workspace_bytes(const AttentionGrad& op, std::span<const Shape> in, int threads) {
  return threads * gradient_floats(in[0][-1] / op.heads, tokens(in[0])) * sizeof(float);
}

}  // namespace lorafuse::cpu
