// Products, convolutions and attention of the reference: reference.cc.
#pragma once
#include <algorithm>

#include "reference.h"

namespace lorafuse::test {

inline int64_t positions(const Shape& x) { return x.rows() / x[0]; }

template <class T> void run(const MatMul& op, const Operands<T>& o) {
  Array<T>& y = o.out(0);  // [M, N]
  const int64_t rows = y.shape.rows(), outputs = y.shape[-1];
  for (int64_t m = 0; m < rows; m++)
    for (int64_t n = 0; n < outputs; n++) {
      T sum = op.epilogue.bias ? o.in(bias_input(op))[n] : T(0);
      if (op.epilogue.residual) sum += o.in(residual_input(op))[m * outputs + n];
      for (size_t i = 0; i < op.pairs.size(); i++) {
        const Array<T>&x = o.in(2 * i), &w = o.in(2 * i + 1);
        const T scale = T(op.pairs[i].scale);
        const int64_t depth = x.shape[-1];
        if (i > 0) sum = o.round(sum);
        for (int64_t k = 0; k < depth; k++)
          sum += scale * o.operand(x[m * depth + k]) * o.operand(op.pairs[i].transposed ? w[k * outputs + n] : w[n * depth + k]);
      }
      y[m * outputs + n] = sum;
    }
}

// t = x · a, y = x · w + t · b for each layer, matrices as they lie, or in the gradient transposed and all y summed.
template <class Adapted, class T> void run_adapted(const Adapted& op, const Operands<T>& o) {
  constexpr bool transposed = Adapted::transposed;
  for (size_t i = 0; i < op.scales.size(); i++) {
    const Array<T>&x = o.in(op.x(i)), &w = o.in(op.w(i)), &a = o.in(op.reduce(i)), &b = o.in(op.expand(i));
    Array<T>&y = o.out(transposed ? 0 : i), &t = o.out(op.products() + i);
    const T scale = T(op.scales[i]);
    const int64_t rows = y.shape.rows(), outputs = y.shape[-1], inputs = x.shape[-1], rank = t.shape[-1];
    for (int64_t m = 0; m < rows; m++) {
      for (int64_t r = 0; r < rank; r++) {
        T sum = 0;
        for (int64_t k = 0; k < inputs; k++)
          sum += o.operand(x[m * inputs + k]) * o.operand(transposed ? a[k * rank + r] : a[r * inputs + k]);
        t[m * rank + r] = o.round(transposed ? scale * sum : sum);
      }
      for (int64_t n = 0; n < outputs; n++) {
        T sum = 0;
        for (int64_t k = 0; k < inputs; k++)
          sum += o.operand(x[m * inputs + k]) * o.operand(transposed ? w[k * outputs + n] : w[n * inputs + k]);
        sum = o.round(sum);
        for (int64_t r = 0; r < rank; r++)
          sum += (transposed ? T(1) : scale) * o.operand(t[m * rank + r]) * o.operand(transposed ? b[r * outputs + n] : b[n * rank + r]);
        if (i == 0 && op.epilogue.bias) sum += o.in(bias_input(op))[n];
        if (i == 0 && op.epilogue.residual) sum += o.in(residual_input(op))[m * outputs + n];
        y[m * outputs + n] = i > 0 && transposed ? o.round(y[m * outputs + n]) + sum : sum;
      }
    }
  }
}
template <class T> void run(const LoraMatMul& op, const Operands<T>& o) { run_adapted(op, o); }
template <class T> void run(const LoraMatMulGrad& op, const Operands<T>& o) { run_adapted(op, o); }

template <class T> void run(const WeightGrad& op, const Operands<T>& o) {
  for (size_t i = 0; i < op.scales.size(); i++) {
    const Array<T>&dy = o.in(2 * i), &x = o.in(2 * i + 1);  // [M, N], [M, K]
    const int64_t rows = dy.shape.rows(), outputs = dy.shape[-1], inputs = x.shape[-1];
    for (int64_t n = 0; n < outputs; n++)
      for (int64_t k = 0; k < inputs; k++)
        for (int64_t m = 0; m < rows; m++)
          o.out(i)[n * inputs + k] += T(op.scales[i]) * o.operand(dy[m * outputs + n]) * o.operand(x[m * inputs + k]);
  }
}

// The pixel of the large image under tap k of the kernel for a pixel of the small one, or −1 where that falls off.
template <class Convolution> int64_t under(const Convolution& op, const Shape& large, int64_t b, int64_t row, int64_t column, int tap) {
  const int64_t r = row * op.stride + tap / op.kernel - op.before, c = column * op.stride + tap % op.kernel - op.before;
  return r < 0 || r >= large[1] || c < 0 || c >= large[2] ? -1 : (b * large[1] + r) * large[2] + c;
}

template <class T> void run(const Conv2d& op, const Operands<T>& o) {
  const Array<T>&x = o.in(0), &w = o.in(1);  // [B, H, W, C], [taps, N, C]
  Array<T>& y = o.out(0);
  const int64_t inputs = x.shape[3], outputs = y.shape[3];
  for (int64_t i = 0; i < y.shape.elements(); i++) {
    const int64_t n = i % outputs, column = i / outputs % y.shape[2], row = i / outputs / y.shape[2] % y.shape[1];
    T sum = (op.epilogue.bias ? o.in(bias_input(op))[n] : T(0)) + (op.epilogue.residual ? o.in(residual_input(op))[i] : T(0));
    for (int tap = 0; tap < op.kernel * op.kernel; tap++) {
      const int64_t pixel = under(op, x.shape, i / outputs / y.shape[2] / y.shape[1], row, column, tap);
      if (pixel < 0) continue;
      for (int64_t c = 0; c < inputs; c++) sum += o.operand(x[pixel * inputs + c]) * o.operand(w[(tap * outputs + n) * inputs + c]);
    }
    y[i] = sum;
  }
}

// Each pixel of x goes to where a convolution would have read it from.
template <class T> void run(const ConvTranspose2d& op, const Operands<T>& o) {
  const Array<T>&x = o.in(0), &w = o.in(1);  // [B, H, W, N], [taps, N, C]
  Array<T>& y = o.out(0);
  const int64_t inputs = x.shape[3], outputs = y.shape[3];
  for (int64_t i = 0; i < y.shape.elements(); i++)
    y[i] = (op.epilogue.bias ? o.in(bias_input(op))[i % outputs] : T(0)) + (op.epilogue.residual ? o.in(residual_input(op))[i] : T(0));
  for (int64_t i = 0; i < x.shape.elements(); i++) {
    const int64_t n = i % inputs, column = i / inputs % x.shape[2], row = i / inputs / x.shape[2] % x.shape[1];
    for (int tap = 0; tap < op.kernel * op.kernel; tap++) {
      const int64_t pixel = under(op, y.shape, i / inputs / x.shape[2] / x.shape[1], row, column, tap);
      if (pixel < 0) continue;
      for (int64_t c = 0; c < outputs; c++) y[pixel * outputs + c] += o.operand(x[i]) * o.operand(w[(tap * inputs + n) * outputs + c]);
    }
  }
}

template <class T> void run(const ConvWeightGrad& op, const Operands<T>& o) {
  const Array<T>&y = o.in(0), &x = o.in(1);  // [B, H', W', N], [B, H, W, C]
  const int64_t outputs = y.shape[3], inputs = x.shape[3];
  for (int64_t i = 0; i < y.shape.elements(); i++) {
    const int64_t n = i % outputs, column = i / outputs % y.shape[2], row = i / outputs / y.shape[2] % y.shape[1];
    for (int tap = 0; tap < op.kernel * op.kernel; tap++) {
      const int64_t pixel = under(op, x.shape, i / outputs / y.shape[2] / y.shape[1], row, column, tap);
      if (pixel < 0) continue;
      for (int64_t c = 0; c < inputs; c++) o.out(0)[(tap * outputs + n) * inputs + c] += o.operand(y[i]) * o.operand(x[pixel * inputs + c]);
    }
  }
}

// Columns [head·d, head·d + d) of row t of sample b.
template <class T> T* row_of(Array<T>& x, int64_t b, int64_t t, int64_t head, int64_t d) {
  return x.data.data() + (b * positions(x.shape) + t) * x.shape[-1] + head * d;
}
template <class T> const T* row_of(const Array<T>& x, int64_t b, int64_t t, int64_t head, int64_t d) {
  return row_of(const_cast<Array<T>&>(x), b, t, head, d);
}

template <class T> T dot(const Operands<T>& o, const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; i++) sum += o.operand(a[i]) * o.operand(b[i]);
  return sum;
}

template <class T> void run(const Attention& op, const Operands<T>& o) {
  const Array<T>&q = o.in(0), &k = o.in(1), &v = o.in(2);
  const int64_t d = q.shape[-1] / op.heads, queries = positions(q.shape), keys = positions(k.shape);
  const T scale = 1 / std::sqrt(T(d));
  for (int64_t b = 0; b < q.shape[0]; b++)
    for (int64_t h = 0; h < op.heads; h++)
      for (int64_t t = 0; t < queries; t++) {
        std::vector<T> p(op.causal ? std::min(keys, t + 1) : keys);
        for (size_t s = 0; s < p.size(); s++) p[s] = o.round(scale * dot(o, row_of(q, b, t, h, d), row_of(k, b, s, h, d), d));
        const T most = *std::max_element(p.begin(), p.end());
        T sum = 0;
        for (T& x : p) sum += x = std::exp(x - most);
        T* y = row_of(o.out(0), b, t, h, d);
        for (size_t s = 0; s < p.size(); s++)
          for (int64_t i = 0; i < d; i++) y[i] += o.operand(p[s] / sum) * o.operand(row_of(v, b, s, h, d)[i]);
        o.out(1)[(b * op.heads + h) * queries + t] = most + std::log(sum);
      }
}

template <class T> void run(const AttentionGrad& op, const Operands<T>& o) {
  const Array<T>&q = o.in(0), &k = o.in(1), &v = o.in(2), &y = o.in(3), &dy = o.in(5);
  const int64_t d = q.shape[-1] / op.heads, queries = positions(q.shape), keys = positions(k.shape);
  const T scale = 1 / std::sqrt(T(d));
  for (int64_t b = 0; b < q.shape[0]; b++)
    for (int64_t h = 0; h < op.heads; h++)
      for (int64_t t = 0; t < queries; t++) {
        const T *qt = row_of(q, b, t, h, d), *dyt = row_of(dy, b, t, h, d);
        T delta = 0;
        for (int64_t i = 0; i < d; i++) delta += row_of(y, b, t, h, d)[i] * dyt[i];
        const T log_sum_exp = o.in(4)[(b * op.heads + h) * queries + t];
        for (int64_t s = 0; s < (op.causal ? std::min(keys, t + 1) : keys); s++) {
          const T* ks = row_of(k, b, s, h, d);
          const T p = std::exp(scale * dot(o, qt, ks, d) - log_sum_exp), kept = o.round(p);
          const T ds = o.operand(kept * (o.round(dot(o, dyt, row_of(v, b, s, h, d), d)) - delta));
          for (int64_t i = 0; i < d; i++) {
            row_of(o.out(0), b, t, h, d)[i] += scale * ds * o.operand(ks[i]);
            row_of(o.out(1), b, s, h, d)[i] += scale * ds * o.operand(qt[i]);
            row_of(o.out(2), b, s, h, d)[i] += o.operand(p) * o.operand(dyt[i]);
          }
        }
      }
}

}  // namespace lorafuse::test
