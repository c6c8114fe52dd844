// What attention makes of its scores between two products: where a cell holds two elements, cells at once. See attention.cc.
#pragma once
#include "math.h"
#include "panels.h"

namespace lorafuse::cpu {

// Two operands of the gradient, cells along the queries and cells along the keys: p and ds by key, ds by query.
struct ScoreGradients { Strided p_by_key, ds_by_key, ds_by_query; };

#if defined(__AVX512BF16__)

constexpr float kScoreBase = 1.44269504f;  // log₂ e: scores are exponents of 2

// 2^x within 2 ulp, as 2^⌊x⌋ · P(x − ⌊x⌋); below −149 it is 0, NaN stays NaN.
inline Vector exp2_(Vector x) {
  const Vector r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vector p = splat(1.8775767e-3f);
  for (const float c : {8.989341e-3f, 5.5826318e-2f, 2.4015361e-1f, 6.931531e-1f, 9.9999994e-1f}) p = p * r + c;
  return _mm512_maskz_scalef_ps(0xffff, p, x);
}

// s becomes the cells of 2^(s − shift), from its beginning; returns the sum of the exact ones.
inline float exponentiate(float* s, int64_t n, float shift) {
  Vector sum{};
  for (int64_t j = 0; j < n; j += 2 * kLanes) {
    Vector e[2];
    for (int h = 0; h < 2; h++) {
      const int64_t valid = std::clamp<int64_t>(n - j - h * kLanes, 0, kLanes);
      e[h] = exp2_(load_some(s + j + h * kLanes, valid) - shift);
      if (valid < kLanes) e[h] = _mm512_maskz_mov_ps((1u << valid) - 1, e[h]);
      sum += e[h];
    }
    store(s + j / 2, neighbours(e[0], e[1]));
  }
  return reduce(sum, [](Vector a, Vector b) { return a + b; });
}

// p = 2^(p − log_sum_exp), ds = p · (ds − delta) for rows of `stride` floats, n of them scores. What is returned lies in p, ds and
// `across`.
inline ScoreGradients score_gradients(float* p, float* ds, float* across, int64_t rows, int64_t n, int64_t stride, const float* log_sum_exp,
                                      const float* delta) {
  for (int64_t r = 0; r < rows; r += 2) {
    const int count = r + 1 < rows ? 2 : 1;
    for (int64_t x = 0; x < n; x += 2 * kLanes) {
      Vector pv[2][2] = {}, dsv[2][2] = {};  // by row and half
      for (int i = 0; i < count; i++)
        for (int h = 0; h < 2; h++) {
          const int64_t at = (r + i) * stride + x + h * kLanes, valid = std::clamp<int64_t>(n - x - h * kLanes, 0, kLanes);
          pv[i][h] = exp2_(load_some(p + at, valid) - log_sum_exp[r + i] * kScoreBase);
          dsv[i][h] = pv[i][h] * (load_some(ds + at, valid) - delta[r + i]);
          if (valid < kLanes) dsv[i][h] = _mm512_maskz_mov_ps((1u << valid) - 1, dsv[i][h]);
        }
      for (int i = 0; i < count; i++) store(across + (r + i) * (stride / 2) + x / 2, neighbours(dsv[i][0], dsv[i][1]));
      for (int h = 0; h < 2; h++) {
        store(p + r / 2 * stride + x + h * kLanes, cells_of(pv[0][h], pv[1][h]));
        store(ds + r / 2 * stride + x + h * kLanes, cells_of(dsv[0][h], dsv[1][h]));
      }
    }
  }
  return {{p, 1, stride}, {ds, 1, stride}, {across, stride / 2, 1}};
}

#else

constexpr float kScoreBase = 1;  // exponents of e

// s = exp(s − shift), returns the sum.
inline float exponentiate(float* s, int64_t n, float shift) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; j++) {
    s[j] = exp_(s[j] - shift);
    sum += s[j];
  }
  return sum;
}

// p = exp(p − log_sum_exp), ds = p · (ds − delta) for rows of `stride` floats, n of them scores.
inline ScoreGradients score_gradients(float* p, float* ds, float*, int64_t rows, int64_t n, int64_t stride, const float* log_sum_exp,
                                      const float* delta) {
  for (int64_t r = 0; r < rows; r++) {
    float *pr = p + r * stride, *dsr = ds + r * stride;
    const float shift = log_sum_exp[r], mean = delta[r];
#pragma omp simd
    for (int64_t x = 0; x < n; x++) {
      pr[x] = exp_(pr[x] - shift);
      dsr[x] = pr[x] * (dsr[x] - mean);
    }
  }
  return {{p, 1, stride}, {ds, 1, stride}, {ds, stride, 1}};
}

#endif

}  // namespace lorafuse::cpu
