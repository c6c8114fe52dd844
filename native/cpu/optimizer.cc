// One step of AdamW over all adapters, with the global norm clipped first. Order of operations as in PyTorch:
//   g *= min(1, max_norm / (‖g‖ + 1e-6)) / loss_scale                      torch:nn/utils/clip_grad.py, clip_grad_norm_
//   p *= 1 − lr·λ;  m += (1 − β₁)(g − m);  v = β₂·v + (1 − β₂)·g²          torch:optim/adamw.py, _single_tensor_adam
//   p −= lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)                        (arXiv:1711.05101, algorithm 2)
#include <cmath>
#include <vector>

#include "kernels.h"

namespace lorafuse::cpu {
namespace {

constexpr int64_t kPiece = 1 << 15;

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

float update(Threads& threads, const AdamW& options, const Trained& trained) {
  const auto [weights, gradients, first, second, count] = trained;
  const double norm = norm_of(threads, gradients, count) / options.loss_scale;
  if (!std::isfinite(static_cast<float>(norm))) return static_cast<float>(norm);

  const double lr = options.learning_rate, beta1 = options.beta1, beta2 = options.beta2, step = static_cast<double>(options.step);
  const double clip_norm = options.max_grad_norm > 0 ? std::fmin(1.0, options.max_grad_norm / (norm + 1e-6)) : 1.0;
  const float clip = static_cast<float>(clip_norm / options.loss_scale);
  const float keep = static_cast<float>(1 - lr * options.weight_decay), epsilon = static_cast<float>(options.epsilon);
  const float weight1 = static_cast<float>(1 - beta1), decay2 = static_cast<float>(beta2), weight2 = static_cast<float>(1 - beta2);
  const float step_size = static_cast<float>(lr / (1 - std::pow(beta1, step)));
  const float correction2 = static_cast<float>(std::sqrt(1 - std::pow(beta2, step)));

  threads.for_ranges(count, kPiece,
                     [=, weights = weights, gradients = gradients, first = first, second = second](int64_t begin, int64_t end) {
#pragma omp simd
                       for (int64_t i = begin; i < end; i++) {
                         const float g = gradients[i] * clip;
                         const float m = first[i] + weight1 * (g - first[i]);
                         const float v = second[i] * decay2 + weight2 * g * g;
                         const float denominator = std::sqrt(v) / correction2 + epsilon;
                         weights[i] = weights[i] * keep - step_size * (m / denominator);
                         first[i] = m;
                         second[i] = v;
                         gradients[i] = 0;
                       }
                     });
  return static_cast<float>(norm);
}

}  // namespace lorafuse::cpu
