// Rows of the op, and its gradient against differences.
#include "graphs.h"
#include "op_rows.h"

namespace lorafuse::test {

SUITE(extension) {
  for (const Shape& s : {Shape{1, 1}, Shape{2, 3, 17}, Shape{3, 64, 320}}) op_row({Multiply{}, {{s}, {s}}});

  test_case("an optimizer that is an extension moves parameters, each group by its own rate", [] {
    const Optimizer optimizer = make_optimizer("sgd", Config("optimizer", {{"momentum", 0.5}}));
    EXPECT(buffers(optimizer, 3).size() == 1 && buffers(optimizer, 3)[0].name == std::string("velocity"), "other buffers");
    Backend& cpu = backend("generic", 2);
    std::vector<float> weights = {1, 2, 3}, gradients = {1, 1, 2}, velocity = {0, 4, 0}, losses = {1};
    float norm = 0;
    const Update update{.groups = {{0.5, 0}, {0.25, 0.5}}, .max_grad_norm = 0, .loss_scale = 1, .step = 1};
    cpu.set(optimizer, update, 0);
    cpu.update(optimizer, {weights.data(), gradients.data(), {velocity.data()}, {1, 3}}, &norm, losses.data(),
               {losses.data(), DType::f32, Shape{1}});
    EXPECT(norm == std::sqrt(6.0f), norm);
    EXPECT(velocity == std::vector<float>({1, 3, 2}), velocity[0], ", ", velocity[1], ", ", velocity[2]);
    EXPECT(weights == std::vector<float>({0.5f, 1, 2.125f}), weights[0], ", ", weights[1], ", ", weights[2]);
    EXPECT(gradients == std::vector<float>(3), "gradients stay");
    expect_error("ARGUMENT_INVALID", [] { make_optimizer("lion", {}); });
  });
  test_case("gradient of an op that is an extension", [] {
    Graph graph;
    const ValueId x = graph.value({"x", {3, 2}, DType::f32, Storage::input}),
                  w = graph.value({"w", {4, 2}, DType::f32, Storage::parameter});
    const ValueId y = graph.emit(MatMul{}, {x, w}), product = graph.emit(Multiply{}, {y, y});
    const ValueId target = graph.value({"target", {3, 4}, DType::f32, Storage::input});
    const ValueId loss = graph.emit(MseLoss{}, {product, target, graph.value({"weights", {3}, DType::f32, Storage::input})});
    graph.results = {loss};
    const Graph backward = gradients(graph, loss);
    Feed feed = random_feed(backward, 1);
    const auto objective = [&] {
      Feed forward = feed;
      std::erase_if(forward, [&](const auto& entry) { return entry.first > loss; });
      const auto values = interpret<double>(graph, forward);
      double sum = 0;
      for (int64_t b = 0; b < 3; b++) sum += feed.at(loss - 1)[b] * values[loss][b];
      return sum;
    };
    const ValueId g = backward.nodes.back().outputs[0];
    const Array<double> derived = interpret<double>(backward, feed)[g];
    for (size_t i = 0; i < 8; i++) {
      const float middle = feed.at(w)[i], h = 0x1p-10f;
      feed.at(w)[i] = middle + h;
      const double above = objective();
      feed.at(w)[i] = middle - h;
      const double below = objective(), expected = (above - below) / (2 * h), found = derived[i] - feed.at(g)[i];
      feed.at(w)[i] = middle;
      EXPECT(std::fabs(found - expected) < 1e-4 * (1 + std::fabs(expected)), "element ", i, ": ", found, ", differences give ", expected);
    }
  });
}

}  // namespace lorafuse::test
