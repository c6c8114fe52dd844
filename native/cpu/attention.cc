// softmax(q·kᵀ / √d)·v in blocks, the scores never in memory as a whole, and its gradient from the saved log-sum-exp.
// Formulas: FlashAttention-2 (arXiv:2307.08691), algorithms 1 and 2. Heads are columns [h·d, (h+1)·d) of [B, T, C].
#include <algorithm>
#include <cmath>

#include "gemm.h"
#include "scores.h"

namespace lorafuse::cpu {
namespace {

constexpr int64_t kQueries = 252;  // rows of a block of queries, forward: whole tiles for 14 and for 6 rows
constexpr int64_t kQueriesGrad = 126;
constexpr int64_t kKeys = 256;  // columns of a block of keys, forward
constexpr int64_t kKeysGrad = 128;
constexpr int64_t kAcross = kPerCell > 1 ? kQueriesGrad * kKeysGrad / kPerCell : 0;  // floats of ds by query
constexpr float kMasked = -1e30f;

int64_t tokens(const Shape& x) { return x.rows() / x[0]; }

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
  return kTileRows * kKeys + packed_size(d, kKeys) + packed_size(kKeys, d) + kQueries * whole(d) + 2 * kQueries + 6 * 16;
}
int64_t gradient_floats(int64_t d, int64_t queries) {
  return 2 * kQueriesGrad * kKeysGrad + kAcross + 2 * packed_size(d, kKeysGrad) + packed_size(kKeysGrad, d) +
         2 * packed_size(kQueriesGrad, d) + 2 * kKeysGrad * whole(d) + queries + 11 * 16;
}

float row_max(const float* s, int64_t n) {
  const auto larger = [](Vector a, Vector b) { return b > a ? b : a; };
  Vector most = splat(kMasked);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) most = larger(most, load(s + j));
  float m = reduce(most, larger);
  for (; j < n; j++) m = std::max(m, s[j]);
  return m;
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
  float *s = scratch.take(kTileRows * kKeys), *kt = scratch.take(packed_size(d, kKeys)), *vp = scratch.take(packed_size(kKeys, d));
  float *o = scratch.take(kQueries * whole(d)), *max = scratch.take(kQueries), *sum = scratch.take(kQueries);
  std::fill_n(o, rows * whole(d), 0.0f);
  std::fill_n(max, rows, kMasked);
  std::fill_n(sum, rows, 0.0f);
  const int64_t end = op.causal ? std::min(keys, first + rows) : keys;
  for (int64_t j = 0; j < end; j += kKeys) {
    const int64_t n = std::min(kKeys, end - j);
    pack_columns(k + j * h.stride, h.stride, d, n, scale * kScoreBase, kt);
    pack_rows(v + j * h.stride, h.stride, n, d, 1, vp);
    for (int64_t t = 0; t < rows; t += kTileRows) {  // a tile's scores stay in the L1 cache
      const int64_t tile = std::min<int64_t>(kTileRows, rows - t);
      multiply_packed(tile, n, d, {q + t * h.stride, h.stride, 1}, kt, false, s, kKeys);
      for (int64_t r = t; r < t + tile; r++) {
        float *row = s + (r - t) * kKeys, *sums = o + r * whole(d);
        if (op.causal)
          for (int64_t x = std::max<int64_t>(0, first + r + 1 - j); x < n; x++) row[x] = kMasked;
        const float larger = std::max(max[r], row_max(row, n)), shrink = exp_((max[r] - larger) / kScoreBase);
        sum[r] = sum[r] * shrink + exponentiate(row, n, larger);
        max[r] = larger;
        if (shrink != 1)
          for (int64_t x = 0; x < d; x++) sums[x] *= shrink;
      }
      multiply_cells(tile, whole(d), n, {s, kKeys, 1}, vp, true, o + t * whole(d), whole(d));
    }
  }
  float* out = h.at(c.out(0)) + first * h.stride;
  float* log_sum_exp = c.out(1).f32() + (h.batch * op.heads + h.head) * queries + first;
  for (int64_t r = 0; r < rows; r++) {
    const float inverse = 1 / sum[r];
    for (int64_t x = 0; x < d; x++) out[r * h.stride + x] = o[r * whole(d) + x] * inverse;
    log_sum_exp[r] = max[r] / kScoreBase + std::log(sum[r]);
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
  float *p = scratch.take(kQueriesGrad * kKeysGrad), *ds = scratch.take(kQueriesGrad * kKeysGrad), *across = scratch.take(kAcross);
  float *kt = scratch.take(packed_size(d, kKeysGrad)), *vt = scratch.take(packed_size(d, kKeysGrad)),
        *kp = scratch.take(packed_size(kKeysGrad, d));
  float *qp = scratch.take(packed_size(kQueriesGrad, d)), *dop = scratch.take(packed_size(kQueriesGrad, d));
  float *dk_sum = scratch.take(kKeysGrad * whole(d)), *dv_sum = scratch.take(kKeysGrad * whole(d)), *delta = scratch.take(queries);

  for (int64_t i = 0; i < queries; i++) {  // delta = Σ o · do
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t x = 0; x < d; x++) sum += o[i * stride + x] * dout[i * stride + x];
    delta[i] = sum;
    std::fill_n(dq + i * stride, d, 0.0f);
  }
  for (int64_t j = 0; j < keys; j += kKeysGrad) {
    const int64_t n = std::min(kKeysGrad, keys - j);
    pack_columns(k + j * stride, stride, d, n, scale * kScoreBase, kt);
    pack_columns(v + j * stride, stride, d, n, 1, vt);
    pack_rows(k + j * stride, stride, n, d, scale, kp);
    std::fill_n(dk_sum, n * whole(d), 0.0f);
    std::fill_n(dv_sum, n * whole(d), 0.0f);
    // The block of the first query that sees one of these keys.
    for (int64_t i = op.causal ? j / kQueriesGrad * kQueriesGrad : 0; i < queries; i += kQueriesGrad) {
      const int64_t rows = std::min(kQueriesGrad, queries - i);
      pack_rows(q + i * stride, stride, rows, d, scale, qp);
      pack_rows(dout + i * stride, stride, rows, d, 1, dop);
      multiply_packed(rows, n, d, {q + i * stride, stride, 1}, kt, false, p, kKeysGrad);
      multiply_packed(rows, n, d, {dout + i * stride, stride, 1}, vt, false, ds, kKeysGrad);
      if (op.causal)
        for (int64_t r = 0; r < rows; r++)
          for (int64_t x = std::max<int64_t>(0, i + r + 1 - j); x < n; x++) p[r * kKeysGrad + x] = kMasked;
      const ScoreGradients g = score_gradients(p, ds, across, rows, n, kKeysGrad, log_sum_exp + i, delta + i);
      multiply_cells(n, whole(d), rows, g.p_by_key, dop, true, dv_sum, whole(d));
      multiply_cells(n, whole(d), rows, g.ds_by_key, qp, true, dk_sum, whole(d));
      multiply_cells(rows, d, n, g.ds_by_query, kp, true, dq + i * stride, stride);
    }
    for (int64_t r = 0; r < n; r++) {
      std::copy_n(dk_sum + r * whole(d), d, dk + (j + r) * stride);
      std::copy_n(dv_sum + r * whole(d), d, dv + (j + r) * stride);
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
