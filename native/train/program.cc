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
      bind_(std::move(bind)), input_offsets_(graph_.values.size()) {
  for (size_t v = 0; v < graph_.values.size(); v++)
    if (is_read_input(v)) {
      input_offsets_[v] = input_bytes_;
      input_bytes_ += aligned(graph_.values[v].bytes());
    }
}

bool Program::is_read_input(size_t v) const { return graph_.values[v].storage == Storage::input && plan_.last_use[v] >= 0; }

size_t Program::workspace_bytes() const { return workspaces_.empty() ? 0 : *std::max_element(workspaces_.begin(), workspaces_.end()); }

void Program::place(void* arena) {
  if (arena_ == arena) return;
  if (tensors_.empty())
    for (const Value& v : graph_.values) tensors_.push_back(is_planned(v) ? Tensor{nullptr, v.dtype, v.shape} : bind_(v));
  arena_ = static_cast<unsigned char*>(arena);
  for (size_t v = 0; v < tensors_.size(); v++)
    if (is_planned(graph_.values[v])) tensors_[v].data = arena_ + plan_.offsets[v];
  repeated_ = {};
}

// Calls upload(value, its bytes) for the input of that name, should anything read it.
template <class F>
void Program::for_input(const std::string& name, const void* data, F upload) {
  for (size_t v = 0; v < graph_.values.size(); v++) {
    const Value& value = graph_.values[v];
    if (!is_read_input(v) || value.name != name) continue;
    if (size_of(value.dtype) == 4) {
      upload(v, data);
    } else {
      const auto narrow = [&](float x) { return value.dtype == DType::f16 ? to_half(x).bits : to_bfloat(x).bits; };
      std::vector<uint16_t> narrowed(value.shape.elements());
      std::transform(static_cast<const float*>(data), static_cast<const float*>(data) + narrowed.size(), narrowed.begin(), narrow);
      upload(v, narrowed.data());
    }
  }
}

void Program::write(const std::string& input, const void* data) {
  for_input(input, data, [&](size_t v, const void* bytes) { backend_.upload(tensors_[v].data, bytes, tensors_[v].bytes()); });
}

void Program::prefetch(void* inputs, const std::string& input, const void* data, const Mark* after) {
  for_input(input, data, [&](size_t v, const void* bytes) {
    backend_.prefetch(static_cast<unsigned char*>(inputs) + input_offsets_[v], bytes, graph_.values[v].bytes(), after);
  });
}

void Program::take(const void* inputs) {
  for (size_t v = 0; v < graph_.values.size(); v++)
    if (is_read_input(v))
      backend_.copy(tensors_[v].data, static_cast<const unsigned char*>(inputs) + input_offsets_[v], tensors_[v].bytes());
}

void Program::run(std::function<void()> end) {
  auto& [runs, recording] = repeated_[end ? 1 : 0];
  const auto all = [this, end] {
    run_nodes(false);
    if (end) end();
  };
  if (runs++ == 0) return all();
  if (!recording) recording = backend_.record(all);
  recording->replay();
}

void Program::run_nodes(bool poison) {
  for (size_t i = 0; i < graph_.nodes.size(); i++) {
    const Node& node = graph_.nodes[i];
    backend_.run(node, tensors_, arena_ + plan_.workspaces[i]);
    if (!poison) continue;
    for (const auto* list : {&node.inputs, &node.outputs})
      for (ValueId v : *list)
        if (is_planned(graph_.values[v]) && plan_.last_use[v] == static_cast<int32_t>(i))
          backend_.fill(tensors_[v].data, 0xff, tensors_[v].bytes());
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
