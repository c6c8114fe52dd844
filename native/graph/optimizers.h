// The catalogue of optimizers. An optimizer is a struct with its name, its numbers and the buffers that it keeps; a backend has one kernel
// for each (cpu/optimizers.cc, cuda/optimizers.cu). Session, plan, states and disk checks follow buffers().
#pragma once
#include <variant>

#include "../base/config.h"
#include "../base/tensor.h"

namespace lorafuse {

// A flat array beside the parameters.
struct BufferSpec {
  const char* name;
  DType dtype;
  int64_t count;
};

// torch.optim.AdamW (arXiv:1711.05101, algorithm 2)
struct AdamW {
  static constexpr const char* name = "adamw";
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

  explicit AdamW(const Config& numbers) : beta1(numbers.real("beta1")), beta2(numbers.real("beta2")), epsilon(numbers.real("epsilon")) {}
  AdamW() = default;
  static std::vector<BufferSpec> buffers(int64_t count) {
    return {{"firstMoment", DType::f32, count}, {"secondMoment", DType::f32, count}};
  }
};

// The optimizers. A test may add one of its own: test/extension.
template <class... More> using Optimizers = std::variant<AdamW, More...>;
#ifdef LORAFUSE_EXTRA_OPTIMIZERS
#include LORAFUSE_EXTRA_OPTIMIZERS
using Optimizer = Optimizers<ExtraOptimizer>;
#else
using Optimizer = Optimizers<>;
#endif

// The optimizer of that name. Throws ARGUMENT_INVALID where there is none, CONFIG_INVALID where a number is missing.
template <size_t I = 0> Optimizer make_optimizer(const std::string& name, const Config& numbers) {
  if constexpr (I == std::variant_size_v<Optimizer>) {
    throw Error("ARGUMENT_INVALID", text("Expected the name of an optimizer but received ", name));
  } else {
    using Kind = std::variant_alternative_t<I, Optimizer>;
    return name == Kind::name ? Optimizer(Kind(numbers)) : make_optimizer<I + 1>(name, numbers);
  }
}

inline std::vector<BufferSpec> buffers(const Optimizer& optimizer, int64_t count) {
  return std::visit([&](const auto& kind) { return kind.buffers(count); }, optimizer);
}

// Parameters that move by the same numbers.
struct ParameterGroup {
  static constexpr int kMost = 16;  // groups of an update
  double learning_rate = 1e-4, weight_decay = 1e-2;
};

// The numbers of one update.
struct Update {
  std::vector<ParameterGroup> groups;  // one for each of Trained::group_ends
  double max_grad_norm = 1;            // 0 = no clipping (torch.nn.utils.clip_grad_norm_)
  double loss_scale = 1;               // what the gradients are multiplied by (torch.amp.GradScaler)
  int64_t step = 1;                    // counts from 1
};

// The arrays that an update moves.
struct Trained {
  float *weights = nullptr, *gradients = nullptr;
  std::vector<void*> state;         // in the order of buffers()
  std::vector<int64_t> group_ends;  // where each group's parameters end; the next one's begin there
  int64_t count() const { return group_ends.empty() ? 0 : group_ends.back(); }
};

}  // namespace lorafuse
