#include "speeds.h"

#include <chrono>

#include "../graph/cost.h"
#include "program.h"

namespace lorafuse {
namespace {

struct Input {
  Shape shape;
  bool f32 = false;  // whatever the others are
};

// Costs of one run of an op, and the seconds that it takes: the best of those that fit into a fraction of a second.
std::pair<Cost, double> measured(Backend& backend, Op op, const std::vector<Input>& operands, DType dtype) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::duration<double> kTime(0.15);
  Graph graph;
  graph.dtype = dtype;
  std::vector<ValueId> inputs;
  for (const auto& [shape, f32] : operands)
    inputs.push_back(graph.value({text("x", inputs.size()), shape, f32 ? DType::f32 : dtype, Storage::input}));
  graph.results = graph.emit_all(std::move(op), inputs);
  const Cost cost = cost_of(graph, graph.nodes[0]);
  Program program(backend, std::move(graph), {});
  const Memory arena(backend, program.arena_bytes());
  program.place(arena.data());
  const auto run = [&] {
    const auto begin = Clock::now();
    program.run();
    char last;
    backend.download(&last, arena.data(), 1);  // waits for it
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  run(), run();  // the second one may be captured
  double best = run();
  for (const auto end = Clock::now() + kTime; Clock::now() < end;) best = std::min(best, run());
  return {cost, best};
}

}  // namespace

Speeds measure_speeds(Backend& backend, DType dtype) {
  constexpr int64_t kTokens = 1024, kWidth = 640, kHeads = 10, kSide = 32, kFloats = int64_t{1} << 22;
  const Input x{{1, kTokens, kWidth}}, image{{1, kSide, kSide, kWidth}}, floats{{kFloats}};
  const auto rate = [&](Op op, const std::vector<Input>& operands) {
    const auto [cost, seconds] = measured(backend, std::move(op), operands, dtype);
    return cost.flops / seconds;
  };
  Speeds speeds;
  const auto [cost, seconds] = measured(backend, Add{}, {floats, floats}, dtype);
  speeds.bytes = static_cast<double>(cost.bytes) / seconds;
  speeds.flops[MatMul::name] = rate(MatMul{}, {x, {{kWidth, kWidth}}});
  speeds.flops[Conv2d::name] = rate(Conv2d{}, {image, {{9, kWidth, kWidth}}});
  speeds.flops[Attention::name] = rate(Attention{kHeads}, {x, x, x});
  speeds.flops[AttentionGrad::name] = rate(AttentionGrad{kHeads}, {x, x, x, x, {{1, kHeads, kTokens}, true}, x});
  return speeds;
}

}  // namespace lorafuse
