#include "program.h"

#include <algorithm>
#include <cstring>

namespace lorafuse {
namespace {

bool is_planned(const Value& v) { return v.storage == Storage::activation || v.storage == Storage::input; }

std::vector<size_t> workspaces_of(const Backend& backend, const Graph& graph) {
  std::vector<size_t> bytes;
  for (const Node& node : graph.nodes) bytes.push_back(backend.workspace_bytes(graph, node));
  return bytes;
}

}  // namespace

Program::Program(Backend& backend, Graph graph, std::function<Tensor(const Value&)> bind)
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
}

void Program::write(const std::string& input, const void* data) {
  for (size_t v = 0; v < tensors_.size(); v++)
    if (graph_.values[v].storage == Storage::input && graph_.values[v].name == input && plan_.last_use[v] >= 0)
      backend_.upload(tensors_[v].data, data, tensors_[v].bytes());
}

void Program::run(bool poison) {
  for (size_t i = 0; i < graph_.nodes.size(); i++) {
    const Node& node = graph_.nodes[i];
    backend_.run(node, tensors_, arena_ + plan_.workspaces[i]);
    if (!poison) continue;
    for (const auto* list : {&node.inputs, &node.outputs})
      for (ValueId v : *list)
        if (is_planned(graph_.values[v]) && plan_.last_use[v] == static_cast<int32_t>(i)) std::memset(tensors_[v].data, 0xff, tensors_[v].bytes());
    std::memset(arena_ + plan_.workspaces[i], 0xff, workspaces_[i]);
  }
}

void Program::read(size_t result, float* data) {
  const Tensor& t = tensors_.at(graph_.results.at(result));
  backend_.download(data, t.data, t.bytes());
}

}  // namespace lorafuse
