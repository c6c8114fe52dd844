// AdamW as PyTorch computes it: ten steps against f64, and what must not move when gradients are not finite.
#include "backends.h"
#include "arrays.h"

namespace lorafuse::test {
namespace {

template <class T>
struct State {
  std::vector<T> weights, first, second;
};

// torch:optim/adamw.py, _single_tensor_adam, after torch:nn/utils/clip_grad.py
template <class T>
T adamw(const AdamW& o, State<T>& s, const std::vector<float>& gradients) {
  T squares = 0;
  for (float g : gradients) squares += T(g) * T(g);
  const T norm = std::sqrt(squares), clip = o.max_grad_norm > 0 ? std::min(T(1), T(o.max_grad_norm) / (norm + T(1e-6))) : T(1);
  const T lr = o.learning_rate, beta1 = o.beta1, beta2 = o.beta2;
  const T correction1 = 1 - std::pow(beta1, T(o.step)), correction2 = std::sqrt(1 - std::pow(beta2, T(o.step)));
  for (size_t i = 0; i < gradients.size(); i++) {
    const T g = T(gradients[i]) * clip;
    s.weights[i] *= 1 - lr * T(o.weight_decay);
    s.first[i] += (1 - beta1) * (g - s.first[i]);
    s.second[i] = beta2 * s.second[i] + (1 - beta2) * g * g;
    s.weights[i] -= lr / correction1 * s.first[i] / (std::sqrt(s.second[i]) / correction2 + T(o.epsilon));
  }
  return norm;
}

template <class T>
State<T> begin(const std::vector<float>& weights) {
  return {{weights.begin(), weights.end()}, std::vector<T>(weights.size()), std::vector<T>(weights.size())};
}

struct Setting {
  const char* name;
  AdamW options;
  int64_t count;
  float scale;  // of the gradients
};
const Setting kSettings[] = {
    {"defaults, clipped", {}, 5000, 1},
    {"gradients below the limit", {}, 5000, 1e-4f},
    {"no clipping", {.max_grad_norm = 0}, 5000, 10},
    {"no weight decay, a large rate", {.learning_rate = 0.1f, .weight_decay = 0}, 333, 1},
    {"one parameter", {.learning_rate = 0.01f}, 1, 1},
    {"several jobs", {.learning_rate = 1e-3f, .beta1 = 0.8f, .beta2 = 0.95f}, 100003, 1},
};

void check(const Setting& setting, const std::string& variant, int threads) {
  Backend& cpu = backend(variant, threads);
  Random random(4);
  const std::vector<float> start = random.normals(setting.count, 0.1f);
  State<double> truth = begin<double>(start);
  State<float> naive = begin<float>(start), actual = begin<float>(start);
  for (int64_t step = 1; step <= 10; step++) {
    AdamW options = setting.options;
    options.step = step;
    std::vector<float> gradients = random.normals(setting.count, setting.scale);
    const double expected = adamw(options, truth, gradients);
    adamw(options, naive, gradients);
    const float norm =
        cpu.update(options, actual.weights.data(), gradients.data(), actual.first.data(), actual.second.data(), setting.count);
    EXPECT(std::fabs(norm - expected) <= 0x1p-23 * expected, "step ", step, ": norm ", norm, " instead of ", expected);
    for (float g : gradients) EXPECT(g == 0, "step ", step, ": a gradient is still ", g);
  }
  auto compare = [&](const char* name, std::vector<float> State<float>::*member, const std::vector<double>& expected) {
    Deviation d, n;
    const Array<double> reference(Shape{setting.count}, expected);
    d.add(std::span<const float>(actual.*member), reference);
    n.add(std::span<const float>(naive.*member), reference);
    expect_as_good(name, d, n);
  };
  compare("weights", &State<float>::weights, truth.weights);
  compare("the first moment", &State<float>::first, truth.first);
  compare("the second moment", &State<float>::second, truth.second);
}

}  // namespace

SUITE(optimizer) {
  for (const Setting& setting : kSettings)
    for (const std::string& variant : variants())
      for (int threads : {1, 3})
        test_case(text("ten steps of AdamW, ", setting.name, ", ", label(variant), ", ", threads, threads == 1 ? " thread" : " threads"),
                  [=] { check(setting, variant, threads); });
  for (const std::string& variant : variants())
    for (const auto& [name, bad] : {std::pair{"NaN", NAN}, {"infinite", INFINITY}, {"so large that their norm is infinite", 3e38f}})
      test_case(text("an update changes nothing where gradients are ", name, ", ", label(variant)), [=, bad = bad] {
        Random random(8);
        const int64_t count = 70000;
        std::vector<float> weights = random.normals(count), gradients = random.normals(count);
        std::vector<float> first = random.normals(count), second = random.normals(count);
        gradients[count - 3] = gradients[count - 4] = bad;
        const auto before = std::vector{weights, first, second, gradients};
        const float norm = backend(variant, 2).update({}, weights.data(), gradients.data(), first.data(), second.data(), count);
        EXPECT(!std::isfinite(norm), "the norm is ", norm);
        const auto after = std::vector{weights, first, second, gradients};
        for (size_t i = 0; i < after.size(); i++)
          EXPECT(std::memcmp(before[i].data(), after[i].data(), count * sizeof(float)) == 0, "buffer ", i, " was changed");
      });
}

}  // namespace lorafuse::test
