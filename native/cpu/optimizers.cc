// Order of operations as in PyTorch, for AdamW:
//   g *= min(1, max_norm / (‖g‖ + 1e-6)) / loss_scale                      torch:nn/utils/clip_grad.py, clip_grad_norm_
//   p *= 1 − lr·λ;  m += (1 − β₁)(g − m);  v = β₂·v + (1 − β₂)·g²          torch:optim/adamw.py, _single_tensor_adam
//   p −= lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)                        (arXiv:1711.05101, algorithm 2)
#include "optimizers.h"

#include <cmath>

#include "loops.h"

namespace lorafuse::cpu {
namespace {

double norm_of(Threads& threads, const float* g, int64_t count) {
  std::vector<double> sums((count + kPiece - 1) / kPiece);
  threads.for_ranges(count, kPiece, [g, &sums](int64_t begin, int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; i++) sum += static_cast<double>(g[i]) * g[i];
    sums[begin / kPiece] = sum;
  });
  double sum = 0;
  for (double piece : sums) sum += piece;
  return std::sqrt(sum);
}

}  // namespace

template <> void move(const AdamW& optimizer, const GroupUpdate& u, Threads& threads) {
  const double lr = u.group.learning_rate, beta1 = optimizer.beta1, beta2 = optimizer.beta2, step = static_cast<double>(u.step);
  const float factor = u.gradient_factor;
  const float keep = static_cast<float>(1 - lr * u.group.weight_decay), epsilon = static_cast<float>(optimizer.epsilon);
  const float weight1 = static_cast<float>(1 - beta1), decay2 = static_cast<float>(beta2), weight2 = static_cast<float>(1 - beta2);
  const float step_size = static_cast<float>(lr / (1 - std::pow(beta1, step)));
  const float correction2 = static_cast<float>(std::sqrt(1 - std::pow(beta2, step)));
  float *weights = u.trained.weights + u.begin, *gradients = u.trained.gradients + u.begin;
  float *first = static_cast<float*>(u.trained.state[0]) + u.begin, *second = static_cast<float*>(u.trained.state[1]) + u.begin;

  threads.for_ranges(u.end - u.begin, kPiece, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
      const float g = gradients[i] * factor;
      const float m = first[i] + weight1 * (g - first[i]);
      const float v = second[i] * decay2 + weight2 * g * g;
      const float denominator = std::sqrt(v) / correction2 + epsilon;
      weights[i] = weights[i] * keep - step_size * (m / denominator);
      first[i] = m;
      second[i] = v;
      gradients[i] = 0;
    }
  });
}

float update(Threads& threads, const Optimizer& optimizer, const Update& update, const Trained& trained) {
  const double norm = norm_of(threads, trained.gradients, trained.count()) / update.loss_scale;
  if (!std::isfinite(static_cast<float>(norm))) return static_cast<float>(norm);
  const double clip = update.max_grad_norm > 0 ? std::fmin(1.0, update.max_grad_norm / (norm + 1e-6)) : 1.0;
  int64_t begin = 0;
  for (size_t i = 0; i < trained.group_ends.size(); begin = trained.group_ends[i++]) {
    const GroupUpdate group{.trained = trained,
                            .begin = begin,
                            .end = trained.group_ends[i],
                            .group = update.groups.at(i),
                            .gradient_factor = static_cast<float>(clip / update.loss_scale),
                            .step = update.step};
    std::visit([&](const auto& kind) { move(kind, group, threads); }, optimizer);
  }
  return static_cast<float>(norm);
}

}  // namespace lorafuse::cpu
