// AdamW as PyTorch computes it: ten steps against f64, and what must not move when gradients are not finite.
#include "arrays.h"
#include "backends.h"

namespace lorafuse::test {
namespace {

template <class T> struct State { std::vector<T> weights, first, second; };

// torch:optim/adamw.py, _single_tensor_adam, after torch:nn/utils/clip_grad.py
// The numbers of an update of one group, as AdamW has them.
struct Numbers {
  double learning_rate = 1e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 1e-2, max_grad_norm = 1, loss_scale = 1;
  int64_t step = 1;

  Optimizer optimizer() const {
    AdamW adamw;
    adamw.beta1 = beta1, adamw.beta2 = beta2, adamw.epsilon = epsilon;
    return adamw;
  }
  Update update() const { return {{{learning_rate, weight_decay}}, max_grad_norm, loss_scale, step}; }
};

template <class T> T adamw(const Numbers& o, State<T>& s, const std::vector<float>& gradients) {
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

template <class T> State<T> begin(const std::vector<float>& weights) {
  return {{weights.begin(), weights.end()}, std::vector<T>(weights.size()), std::vector<T>(weights.size())};
}

struct Setting {
  const char* name;
  Numbers options;
  int64_t count;
  float scale;  // of the gradients
};
const Setting kSettings[] = {
    {"defaults, clipped", {}, 5000, 1},
    {"gradients below the limit", {}, 5000, 1e-4f},
    {"no clipping", {.max_grad_norm = 0}, 5000, 10},
    {"no weight decay, a large rate", {.learning_rate = 0.1f, .weight_decay = 0}, 333, 1},
    {"gradients of a scaled loss", {.loss_scale = 65536}, 5000, 1e-3f},
    {"one parameter", {.learning_rate = 0.01f}, 1, 1},
    {"several jobs", {.learning_rate = 1e-3f, .beta1 = 0.8f, .beta2 = 0.95f}, 100003, 1},
};

// What an update moves, in a backend's memory.
struct Buffers {
  Backend& backend;
  Held weights, gradients, first, second, norm, losses;
  int64_t count;
  std::vector<int64_t> group_ends;

  static std::vector<unsigned char> bytes(const std::vector<float>& values) { return stored(DType::f32, values); }
  Buffers(Backend& b, const std::vector<float>& w, const std::vector<float>& g, const std::vector<float>& m, const std::vector<float>& v)
      : backend(b), weights(b, bytes(w)), gradients(b, bytes(g)), first(b, bytes(m)), second(b, bytes(v)), norm(b, sizeof(float)),
        losses(b, 7 * sizeof(float)), count(static_cast<int64_t>(w.size())), group_ends{count} {}
  void set_gradients(const std::vector<float>& g) { backend.upload(gradients.data(), g.data(), g.size() * sizeof(float)); }
  // Five losses wait, two are the latest; `loss` is the last of them.
  float update(const Numbers& options, float loss = 1, bool latest = true) {
    auto at = [](const Held& held) { return static_cast<float*>(held.data()); };
    std::vector<float> some(7, 1);
    some[latest ? 6 : 4] = loss;
    backend.upload(losses.data(), some.data(), some.size() * sizeof(float));
    const Optimizer optimizer = options.optimizer();
    Update numbers = options.update();
    numbers.groups.resize(group_ends.size(), numbers.groups[0]);
    backend.set(optimizer, numbers, 5);
    const Trained trained{at(weights), at(gradients), {first.data(), second.data()}, group_ends};
    backend.update(optimizer, trained, at(norm), at(losses), {at(losses) + 5, DType::f32, Shape{2}});
    return loaded(DType::f32, norm.read())[0];
  }
  std::vector<std::vector<float>> all() const {
    std::vector<std::vector<float>> values;
    for (const Held* held : {&weights, &first, &second, &gradients}) values.push_back(loaded(DType::f32, held->read()));
    return values;
  }
};

void check(const Setting& setting, Backend& backend) {
  Random random(4);
  const std::vector<float> start = random.normals(setting.count, 0.1f), zeros(setting.count);
  State<double> truth = begin<double>(start);
  State<float> naive = begin<float>(start);
  Buffers buffers(backend, start, zeros, zeros, zeros);
  for (int64_t step = 1; step <= 10; step++) {
    Numbers options = setting.options;
    options.step = step;
    std::vector<float> gradients = random.normals(setting.count, setting.scale);
    const double expected = adamw(options, truth, gradients);
    adamw(options, naive, gradients);
    for (float& g : gradients) g *= static_cast<float>(options.loss_scale);
    buffers.set_gradients(gradients);
    const float norm = buffers.update(options);
    EXPECT(std::fabs(norm - expected) <= 0x1p-23 * expected, "step ", step, ": norm ", norm, " instead of ", expected);
    for (float g : loaded(DType::f32, buffers.gradients.read())) EXPECT(g == 0, "step ", step, ": a gradient is still ", g);
  }
  const auto actual = buffers.all();
  auto compare = [&](const char* name, const std::vector<float>& values, const std::vector<float>& plain,
                     const std::vector<double>& expected) {
    Deviation d, n;
    const Array<double> reference(Shape{setting.count}, expected);
    d.add(std::span<const float>(values), reference);
    n.add(std::span<const float>(plain), reference);
    expect_as_good(name, d, n);
  };
  compare("weights", actual[0], naive.weights, truth.weights);
  compare("the first moment", actual[1], naive.first, truth.first);
  compare("the second moment", actual[2], naive.second, truth.second);
}

void check_bad(float bad, float loss, bool latest, Backend& backend) {
  Random random(8);
  const int64_t count = 70000;
  const std::vector<float> weights = random.normals(count), first = random.normals(count), second = random.normals(count);
  std::vector<float> gradients = random.normals(count);
  gradients[count - 3] = gradients[count - 4] = bad;
  Buffers buffers(backend, weights, gradients, first, second);
  const auto before = buffers.all();
  const float norm = buffers.update({}, loss, latest);
  EXPECT(!std::isfinite(norm), "the norm is ", norm);
  const auto after = buffers.all();
  for (size_t i = 0; i < after.size(); i++)
    EXPECT(std::memcmp(before[i].data(), after[i].data(), count * sizeof(float)) == 0, "buffer ", i, " was changed");
}

// Groups are moved each by its own rate and decay, and clipped by the norm of all.
void check_groups(Backend& backend) {
  Random random(12);
  const int64_t count = 70001, middle = 333;
  const std::vector<float> start = random.normals(count), gradients = random.normals(count), zeros(count);
  const auto moved = [&](std::vector<int64_t> ends, std::vector<ParameterGroup> groups) {
    Buffers b(backend, start, gradients, zeros, zeros);
    const auto at = [](const Held& held) { return static_cast<float*>(held.data()); };
    const Update update{std::move(groups), 1, 1, 1};
    backend.set(AdamW(), update, 0);
    backend.update(AdamW(), {at(b.weights), at(b.gradients), {b.first.data(), b.second.data()}, std::move(ends)}, at(b.norm), at(b.losses),
                   {at(b.losses), DType::f32, Shape{2}});
    return b.all();
  };
  const ParameterGroup slow{1e-4, 0.1}, fast{3e-2, 0};
  const auto all_slow = moved({count}, {slow}), all_fast = moved({count}, {fast}), both = moved({middle, middle, count}, {slow, {}, fast});
  for (size_t buffer = 0; buffer < both.size(); buffer++)
    for (int64_t i = 0; i < count; i++) {
      const float expected = (i < middle ? all_slow : all_fast)[buffer][i];
      EXPECT(both[buffer][i] == expected, "buffer ", buffer, ", element ", i, ": ", both[buffer][i], " instead of ", expected);
    }
}

}  // namespace

SUITE(optimizer) {
  std::vector<std::pair<std::string, std::function<Backend&()>>> places;
  for (const std::string& variant : variants())
    for (int threads : {1, 3})
      places.push_back({text(label(variant), ", ", threads, threads == 1 ? " thread" : " threads"),
                        [=]() -> Backend& { return backend(variant, threads); }});
  if (gpu()) places.push_back({"gpu f32", []() -> Backend& { return *gpu(); }});
  for (const auto& [place, open] : places) {
    test_case(text("groups of parameters have rates and decays of their own, ", place), [open = open] { check_groups(open()); });
    for (const Setting& setting : kSettings)
      test_case(text("ten steps of AdamW, ", setting.name, ", ", place), [setting, open = open] { check(setting, open()); });
    for (const auto& [name, bad] : {std::pair{"NaN", NAN}, {"infinite", INFINITY}, {"so large that their norm is infinite", 3e38f}})
      test_case(text("an update changes nothing where gradients are ", name, ", ", place),
                [bad = bad, open = open] { check_bad(bad, 1, true, open()); });
    for (float loss : {NAN, INFINITY})
      for (bool latest : {false, true})
        test_case(text("an update changes nothing where ", latest ? "the latest" : "a waiting", " loss is ", loss, ", ", place),
                  [=, open = open] { check_bad(0, loss, latest, open()); });
  }
}

}  // namespace lorafuse::test
