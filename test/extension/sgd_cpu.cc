#include "cpu/optimizers.h"

namespace lorafuse::cpu {

template <> void move(const Sgd& sgd, const GroupUpdate& u, Threads& threads) {
  const auto momentum = static_cast<float>(sgd.momentum), lr = static_cast<float>(u.group.learning_rate);
  const float keep = 1 - lr * static_cast<float>(u.group.weight_decay), factor = u.gradient_factor;
  float *weights = u.trained.weights + u.begin, *gradients = u.trained.gradients + u.begin;
  float* velocity = static_cast<float*>(u.trained.state[0]) + u.begin;
  threads.for_ranges(u.end - u.begin, 1 << 15, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      velocity[i] = momentum * velocity[i] + gradients[i] * factor;
      weights[i] = keep * weights[i] - lr * velocity[i];
      gradients[i] = 0;
    }
  });
}

}  // namespace lorafuse::cpu
