// Element-wise and copying ops: formulas in graph/ops.h. All are bound by memory, so each is one pass over its inputs.
//   gelu x = x·Φ(x), gelu' = Φ(x) + x·φ(x); silu x = x·σ(x), silu' = σ + x·σ·(1 − σ); quick_gelu x = x·σ(1.702·x)
//   (torch:aten/src/ATen/native/cpu/Activation.cpp; diffusers:models/activations.py GEGLU; diffusers:models/embeddings.py)
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "math.h"
#include "widen.h"

namespace lorafuse::cpu {
namespace {

constexpr int64_t kPiece = 1 << 15;  // elements of a job

// y[i] = f(i) for every element.
template <class F>
void for_elements(Context& c, F f) {
  float* y = c.out(0).f32();
  c.threads.for_ranges(c.out(0).shape.elements(), kPiece, [y, f](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) y[i] = f(i);
  });
}

// Calls f(row) for each row, in pieces of rows that touch `channels` elements.
template <class F>
void for_rows(Context& c, int64_t rows, int64_t channels, F f) {
  c.threads.for_ranges(rows, std::max<int64_t>(1, kPiece / std::max<int64_t>(1, channels)), [f](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) f(r);
  });
}

void copy(float* to, const float* from, int64_t count) { std::memcpy(to, from, count * sizeof(float)); }

constexpr float kQuick = 1.702f;
float quick_gelu(float x) { return x * sigmoid(kQuick * x); }
float quick_gelu_grad(float x) {
  const float s = sigmoid(kQuick * x);
  return s + kQuick * x * s * (1.0f - s);
}

}  // namespace

void run(const Activation& op, Context& c) {
  const float* x = c.in(0).f32();
  switch (op.function) {
    case Function::silu: return for_elements(c, [x](int64_t i) { return silu(x[i]); });
    case Function::gelu: return for_elements(c, [x](int64_t i) { return gelu(x[i]); });
    case Function::quick_gelu: return for_elements(c, [x](int64_t i) { return quick_gelu(x[i]); });
  }
}

void run(const ActivationGrad& op, Context& c) {
  const float *x = c.in(0).f32(), *dy = c.in(1).f32();
  switch (op.function) {
    case Function::silu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * silu_grad(x[i]); });
    case Function::gelu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * gelu_grad(x[i]); });
    case Function::quick_gelu: return for_elements(c, [x, dy](int64_t i) { return dy[i] * quick_gelu_grad(x[i]); });
  }
}

void run(const Geglu&, Context& c) {
  const int64_t width = c.out(0).shape[-1];
  const float* x = c.in(0).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), width, [=](int64_t r) {
    const float *a = x + r * 2 * width, *b = a + width;
    float* y = out + r * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) y[i] = a[i] * gelu(b[i]);
  });
}

void run(const GegluGrad&, Context& c) {
  const int64_t width = c.in(1).shape[-1];
  const float *x = c.in(0).f32(), *gradient = c.in(1).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.in(1).shape.rows(), width, [=](int64_t r) {
    const float *a = x + r * 2 * width, *b = a + width, *dy = gradient + r * width;
    float *da = out + r * 2 * width, *db = da + width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      const Normal n = normal(b[i]);
      da[i] = dy[i] * (b[i] * n.cdf);
      db[i] = dy[i] * a[i] * (n.cdf + b[i] * n.density);
    }
  });
}

void run(const Add&, Context& c) {
  const float *a = c.in(0).f32(), *b = c.in(1).f32();
  for_elements(c, [a, b](int64_t i) { return a[i] + b[i]; });
}

void run(const AddPerSample&, Context& c) {
  const Shape& shape = c.in(0).shape;
  const int64_t channels = shape[-1], positions = shape.rows() / shape[0];
  const float *x = c.in(0).f32(), *embedding = c.in(1).f32();
  float* y = c.out(0).f32();
  for_rows(c, shape.rows(), channels, [=](int64_t r) {
    const float* e = embedding + r / positions * channels;
#pragma omp simd
    for (int64_t i = 0; i < channels; i++) y[r * channels + i] = x[r * channels + i] + e[i];
  });
}

void run(const SumPositions&, Context& c) {
  constexpr int64_t kStrip = 32, kBlock = 32;  // channels of a job; rows that are summed in f32
  const Shape& shape = c.in(0).shape;
  const int64_t channels = shape[-1], positions = shape.rows() / shape[0], strips = (channels + kStrip - 1) / kStrip;
  c.threads.for_each(shape[0] * strips, [&](int64_t job, int) {
    const int64_t first = job % strips * kStrip, count = std::min(kStrip, channels - first);
    const float* x = c.in(0).f32() + job / strips * positions * channels + first;
    double total[kStrip] = {};
    for (int64_t r = 0; r < positions;) {
      float sum[kStrip] = {};
      for (const int64_t end = std::min(positions, r + kBlock); r < end; r++) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) sum[i] += x[r * channels + i];
      }
      for (int64_t i = 0; i < count; i++) total[i] += sum[i];
    }
    float* y = c.out(0).f32() + job / strips * channels + first;
    for (int64_t i = 0; i < count; i++) y[i] = static_cast<float>(total[i]);
  });
}

void run(const Concat&, Context& c) {
  const int64_t first = c.in(0).shape[-1], second = c.in(1).shape[-1], all = first + second;
  const float *a = c.in(0).f32(), *b = c.in(1).f32();
  float* y = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), all, [=](int64_t r) {
    copy(y + r * all, a + r * first, first);
    copy(y + r * all + first, b + r * second, second);
  });
}

void run(const Slice& op, Context& c) {
  const int64_t channels = c.in(0).shape[-1], width = op.end - op.begin;
  const float* x = c.in(0).f32() + op.begin;
  float* y = c.out(0).f32();
  for_rows(c, c.out(0).shape.rows(), width, [=](int64_t r) { copy(y + r * width, x + r * channels, width); });
}

void run(const Embedding&, Context& c) {
  const int64_t tokens = c.in(0).shape[1], vocabulary = c.in(1).shape[0], channels = c.in(1).shape[1];
  const int32_t* ids = c.in(0).i32();
  for (int64_t r = 0; r < c.in(0).shape.elements(); r++)
    CHECK(ids[r] >= 0 && ids[r] < vocabulary, "TOKEN_OUT_OF_RANGE", "[embedding] Expected token ids from 0 to ", vocabulary - 1,
          " but received ", ids[r], " at position ", r % tokens);
  for_rows(c, c.in(0).shape.elements(), channels, [&](int64_t r) {
    float* y = c.out(0).f32() + r * channels;
    widen_row(c.in(1), ids[r] * channels, channels, y);
    with_elements(c.in(2), [&](const auto* positions) {
      const auto* position = positions + r % tokens * channels;
      for (int64_t i = 0; i < channels; i++) y[i] += widen(position[i]);
    });
  });
}

void run(const Sinusoid& op, Context& c) {
  const int64_t half = op.dim / 2;
  const float* t = c.in(0).f32();
  float* out = c.out(0).f32();
  // Every step rounds to f32, as PyTorch's does: at t = 999 the angle would differ by 1e-4 otherwise.
  const float log_period = static_cast<float>(-std::log(10000.0)), divisor = static_cast<float>(half) - op.shift;
  for (int64_t b = 0; b < c.in(0).shape.elements(); b++) {
    float* y = out + b * op.dim;
    float *cosines = op.cos_first ? y : y + half, *sines = op.cos_first ? y + half : y;
    for (int64_t i = 0; i < half; i++) {
      const float exponent = log_period * static_cast<float>(i) / divisor;
      const float angle = t[b] * static_cast<float>(std::exp(static_cast<double>(exponent)));
      cosines[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sines[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
    if (op.dim % 2) y[op.dim - 1] = 0;
  }
}

void run(const AddNoise&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  const float *x = c.in(0).f32(), *noise = c.in(1).f32();
  for (int64_t b = 0; b < c.in(0).shape[0]; b++) {
    const float signal = c.in(2).f32()[2 * b], amount = c.in(2).f32()[2 * b + 1];
    float* y = c.out(0).f32();
    c.threads.for_ranges(size, kPiece, [=](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = b * size + begin; i < b * size + end; i++) y[i] = signal * x[i] + amount * noise[i];
    });
  }
}

void run(const MseLoss&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  c.threads.for_each(c.in(0).shape[0], [&](int64_t b, int) {
    const float *prediction = c.in(0).f32() + b * size, *target = c.in(1).f32() + b * size;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; i++) {
      const double d = prediction[i] - target[i];
      sum += d * d;
    }
    c.out(0).f32()[b] = static_cast<float>(sum / static_cast<double>(size));
  });
}

void run(const MseLossGrad&, Context& c) {
  const int64_t size = c.in(0).shape.elements() / c.in(0).shape[0];
  const float *prediction = c.in(0).f32(), *target = c.in(1).f32(), *weights = c.in(2).f32();
  float* out = c.out(0).f32();
  for_rows(c, c.in(0).shape[0], size, [=](int64_t b) {
    const float scale = static_cast<float>(2.0 * weights[b] / static_cast<double>(size));
#pragma omp simd
    for (int64_t i = b * size; i < (b + 1) * size; i++) out[i] = scale * (prediction[i] - target[i]);
  });
}

}  // namespace lorafuse::cpu
