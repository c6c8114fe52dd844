#include "program.h"

#include <algorithm>
#include <chrono>

#include "../base/floats.h"

namespace lorafuse {
namespace {

bool is_planned(const Value& v) { return v.storage == Storage::activation || v.storage == Storage::input; }

std::vector<size_t> workspaces_of(const Backend& backend, const Graph& graph) {
  std::vector<size_t> bytes;
  for (const Node& node : graph.nodes) bytes.push_back(backend.workspace_bytes(graph, node));
  return bytes;
}

}  // namespace

Program::Program(Backend& backend, Graph graph, Bind bind)
    : backend_(backend), graph_(std::move(graph)), workspaces_(workspaces_of(backend, graph_)), plan_(lorafuse::plan(graph_, workspaces_)),
      bind_(std::move(bind)) {}

size_t Program::workspace_bytes() const { return workspaces_.empty() ? 0 : *std::max_element(workspaces_.begin(), workspaces_.end()); }

void Program::place(void* arena) {
  if (arena_ == arena) return;
  if (tensors_.empty())
    for (const Value& v : graph_.values) tensors_.push_back(is_planned(v) ? Tensor{nullptr, v.dtype, v.shape} : bind_(v));
  arena_ = static_cast<unsigned char*>(arena);
  for (size_t v = 0; v < tensors_.size(); v++)
    if (is_planned(graph_.values[v])) tensors_[v].data = arena_ + plan_.offsets[v];
  recording_.reset();
  runs_ = 0;
}

void Program::write(const std::string& input, const void* data) {
  for (size_t v = 0; v < tensors_.size(); v++) {
    if (graph_.values[v].storage != Storage::input || graph_.values[v].name != input || plan_.last_use[v] < 0) continue;
    const Tensor& t = tensors_[v];
    if (size_of(t.dtype) == 4) {
      backend_.upload(t.data, data, t.bytes());
    } else {
      const auto narrow = [&](float x) { return t.dtype == DType::f16 ? to_half(x).bits : to_bfloat(x).bits; };
      std::vector<uint16_t> narrowed(t.shape.elements());
      std::transform(static_cast<const float*>(data), static_cast<const float*>(data) + narrowed.size(), narrowed.begin(), narrow);
      backend_.upload(t.data, narrowed.data(), t.bytes());
    }
  }
}

void Program::run(bool poison) {
  if (poison) return run_nodes(true);
  if (runs_++ == 0) return run_nodes(false);
  if (!recording_) recording_ = backend_.record([this] { run_nodes(false); });
  recording_->replay();
}

void Program::run_nodes(bool poison) {
  for (size_t i = 0; i < graph_.nodes.size(); i++) {
    const Node& node = graph_.nodes[i];
    backend_.run(node, tensors_, arena_ + plan_.workspaces[i]);
    if (!poison) continue;
    for (const auto* list : {&node.inputs, &node.outputs})
      for (ValueId v : *list)
        if (is_planned(graph_.values[v]) && plan_.last_use[v] == static_cast<int32_t>(i)) backend_.fill(tensors_[v].data, 0xff, tensors_[v].bytes());
    backend_.fill(arena_ + plan_.workspaces[i], 0xff, workspaces_[i]);
  }
}

double Program::time_node(size_t node) {
  constexpr int kTimes = 10;
  using Clock = std::chrono::steady_clock;
  auto run = [&](int times) {
    const auto begin = Clock::now();
    for (int i = 0; i < times; i++) backend_.run(graph_.nodes.at(node), tensors_, arena_ + plan_.workspaces.at(node));
    char last;
    backend_.download(&last, arena_, 1);
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  run(1);
  const double once = run(1);
  return (run(1 + kTimes) - once) / kTimes;
}

void Program::read(size_t result, float* data) {
  const Tensor& t = tensors_.at(graph_.results.at(result));
  if (t.dtype == DType::f32) return backend_.download(data, t.data, t.bytes());
  std::vector<uint16_t> narrow(t.shape.elements());
  backend_.download(narrow.data(), t.data, t.bytes());
  const auto widened = [&](uint16_t bits) { return t.dtype == DType::f16 ? widen(Half{bits}) : widen(Bfloat{bits}); };
  std::transform(narrow.begin(), narrow.end(), data, widened);
}

}  // namespace lorafuse
