// Activations and norms of the reference: reference.cc.
#pragma once
#include "reference_products.h"

namespace lorafuse::test {

template <class T> T sigmoid(T x) { return 1 / (1 + std::exp(-x)); }

template <class T> T apply(Function f, T x) {
  if (f == Function::silu) return x * sigmoid(x);
  if (f == Function::quick_gelu) return x * sigmoid(T(1.702) * x);
  return x * T(0.5) * (1 + std::erf(x * T(M_SQRT1_2)));
}
template <class T> T derivative(Function f, T x) {
  if (f == Function::gelu) return T(0.5) * (1 + std::erf(x * T(M_SQRT1_2))) + x * std::exp(-x * x / 2) * T(0.5 * M_2_SQRTPI * M_SQRT1_2);
  const T a = f == Function::silu ? T(1) : T(1.702), s = sigmoid(a * x);
  return s + a * x * s * (1 - s);
}

// Offsets of the elements of one group of one sample.
inline std::vector<int64_t> group_of(const Shape& x, int groups, int64_t sample, int64_t group) {
  const int64_t width = x[-1] / groups;
  std::vector<int64_t> all;
  for (int64_t p = 0; p < positions(x); p++)
    for (int64_t c = 0; c < width; c++) all.push_back((sample * positions(x) + p) * x[-1] + group * width + c);
  return all;
}

template <class T> void statistics(const Array<T>& x, const std::vector<int64_t>& group, float eps, T* out) {
  T sum = 0, squares = 0;
  for (int64_t i : group) sum += x[i];
  const T mean = sum / T(group.size());
  for (int64_t i : group) squares += (x[i] - mean) * (x[i] - mean);
  out[0] = mean;
  out[1] = 1 / std::sqrt(squares / T(group.size()) + T(eps));
}

// dx of y = (x − mean)·rstd·γ over one group, from dz = gradient of y.
template <class T> void normalised_gradient(const Array<T>& x, const Array<T>& gamma, const std::vector<int64_t>& group, const T* s,
                                            const std::vector<T>& dz, Array<T>& dx) {
  const int64_t channels = x.shape[-1];
  T mean1 = 0, mean2 = 0;
  for (size_t j = 0; j < group.size(); j++) {
    const T g = dz[j] * gamma[group[j] % channels];
    mean1 += g;
    mean2 += g * ((x[group[j]] - s[0]) * s[1]);
  }
  mean1 /= T(group.size());
  mean2 /= T(group.size());
  for (size_t j = 0; j < group.size(); j++) {
    const int64_t i = group[j];
    dx[i] = s[1] * (dz[j] * gamma[i % channels] - mean1 - (x[i] - s[0]) * s[1] * mean2);
  }
}

template <class T> void run(const GroupNorm& op, const Operands<T>& o) {
  const Array<T>& x = o.in(0);
  for (int64_t b = 0; b < x.shape[0]; b++)
    for (int g = 0; g < op.groups; g++) {
      T* s = &o.out(1)[(b * op.groups + g) * 2];
      const auto group = group_of(x.shape, op.groups, b, g);
      statistics(x, group, op.eps, s);
      for (int64_t i : group) {
        const T z = (x[i] - s[0]) * s[1] * o.in(1)[i % x.shape[-1]] + o.in(2)[i % x.shape[-1]];
        o.out(0)[i] = op.silu ? apply(Function::silu, z) : z;
      }
    }
}

template <class T> void run(const GroupNormGrad& op, const Operands<T>& o) {
  const Array<T>&x = o.in(0), &gamma = o.in(1), &beta = o.in(2), &dy = o.in(4);
  for (int64_t b = 0; b < x.shape[0]; b++)
    for (int g = 0; g < op.groups; g++) {
      const T* s = &o.in(3)[(b * op.groups + g) * 2];
      const auto group = group_of(x.shape, op.groups, b, g);
      std::vector<T> dz;
      for (int64_t i : group) {
        const T z = (x[i] - s[0]) * s[1] * gamma[i % x.shape[-1]] + beta[i % x.shape[-1]];
        dz.push_back(op.silu ? dy[i] * derivative(Function::silu, z) : dy[i]);
      }
      normalised_gradient(x, gamma, group, s, dz, o.out(0));
      if (op.residual)
        for (int64_t i : group) o.out(0)[i] += o.in(5)[i];
    }
}

inline std::vector<int64_t> row_indices(int64_t row, int64_t channels) {
  std::vector<int64_t> all;
  for (int64_t c = 0; c < channels; c++) all.push_back(row * channels + c);
  return all;
}

template <class T> void run(const LayerNorm& op, const Operands<T>& o) {
  const Array<T>& x = o.in(0);
  for (int64_t r = 0; r < x.shape.rows(); r++) {
    const auto row = row_indices(r, x.shape[-1]);
    T* s = &o.out(1)[r * 2];
    statistics(x, row, op.eps, s);
    for (int64_t i : row) o.out(0)[i] = (x[i] - s[0]) * s[1] * o.in(1)[i % x.shape[-1]] + o.in(2)[i % x.shape[-1]];
  }
}

template <class T> void run(const LayerNormGrad& op, const Operands<T>& o) {
  const Array<T>& x = o.in(0);
  for (int64_t r = 0; r < x.shape.rows(); r++) {
    const auto row = row_indices(r, x.shape[-1]);
    std::vector<T> dy;
    for (int64_t i : row) dy.push_back(o.in(3)[i]);
    normalised_gradient(x, o.in(1), row, &o.in(2)[r * 2], dy, o.out(0));
    if (op.residual)
      for (int64_t i : row) o.out(0)[i] += o.in(4)[i];
  }
}

}  // namespace lorafuse::test
