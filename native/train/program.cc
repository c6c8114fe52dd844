#include "program.h"

#include <algorithm>

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
template <class F> void Program::for_input(const std::string& name, const void* data, F upload) {
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

void Program::prefetch(void* inputs, const std::string& input, const void* data, const Event* after) {
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
  auto& [runs, captured] = repeated_[end ? 1 : 0];
  const auto all = [this, end] {
    for (size_t i = 0; i < graph_.nodes.size(); i++) run_node(i);
    if (end) end();
  };
  if (runs++ == 0) return all();
  if (!captured) captured = backend_.capture(all);
  captured->replay();
}

void Program::run_each(const std::function<void(size_t)>& after) {
  for (size_t i = 0; i < graph_.nodes.size(); i++) {
    run_node(i);
    after(i);
  }
}

void Program::run_node(size_t i) {
  const Node& node = graph_.nodes.at(i);
  try {
    backend_.run(node, tensors_, workspace(i));
  } catch (const Error& e) { throw Error(e.code(), node.layer.empty() ? e.what() : text(e.what(), " in the layer ", node.layer)); }
}

void Program::read_value(ValueId v, float* data) {
  const Tensor& t = tensors_.at(v);
  if (t.dtype == DType::f32) return backend_.download(data, t.data, t.bytes());
  std::vector<uint16_t> narrow(t.shape.elements());
  backend_.download(narrow.data(), t.data, t.bytes());
  const auto widened = [&](uint16_t bits) { return t.dtype == DType::f16 ? widen(Half{bits}) : widen(Bfloat{bits}); };
  std::transform(narrow.begin(), narrow.end(), data, widened);
}

}  // namespace lorafuse
