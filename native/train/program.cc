#include "program.h"

#include <algorithm>
#include <chrono>

#include "../base/floats.h"

namespace lorafuse {

Program::Program(Backend& backend, Graph graph, Bind bind) : backend_(backend), graph_(std::move(graph)), bind_(std::move(bind)) {
  for (const Node& node : graph_.nodes) workspaces_.push_back(backend.workspace_bytes(graph_, node));
  plan_ = lorafuse::plan(graph_, workspaces_);
  for (const Value& v : graph_.values)
    if (!v.network.empty()) networks_.insert(v.network);
  for (size_t v = 0; v < graph_.values.size(); v++) {
    if (graph_.values[v].storage != Storage::input || plan_.last_use[v] < 0) continue;
    inputs_.push_back({v, input_bytes_});
    input_bytes_ += aligned(graph_.values[v].bytes());
  }
}

size_t Program::workspace_bytes() const { return workspaces_.empty() ? 0 : *std::max_element(workspaces_.begin(), workspaces_.end()); }

// Without what a GPU's driver keeps of a captured graph.
size_t Program::host_bytes() const {
  // As glibc's malloc rounds it.
  const auto block = [](size_t bytes) { return bytes == 0 ? 0 : std::max<size_t>(32, (bytes + 8 + 15) / 16 * 16); };
  const auto list = [&]<class Item>(const std::vector<Item>& items) { return block(items.capacity() * sizeof(Item)); };
  const auto string = [&](const std::string& s) { return s.capacity() < sizeof(s) / 2 ? 0 : block(s.capacity() + 1); };
  size_t bytes = list(graph_.values) + list(graph_.nodes) + block(graph_.values.size() * sizeof(Tensor)) + list(workspaces_) +
                 list(plan_.offsets) + list(plan_.workspaces) + list(plan_.first_use) + list(plan_.last_use) + list(plan_.alive);
  // A shape is held by the value and by its tensor.
  for (const Value& v : graph_.values) bytes += string(v.name) + string(v.network) + 2 * block(v.shape.rank() * sizeof(int64_t));
  const auto op = [&](const auto& op) -> size_t {
    if constexpr (requires { op.pairs; }) return list(op.pairs);
    else if constexpr (requires { op.scales; }) return list(op.scales);
    else return 0;
  };
  for (const Node& n : graph_.nodes)
    bytes += list(n.inputs) + list(n.outputs) + string(n.layer) + string(n.block) + string(n.part) + std::visit(op, n.op);
  return bytes;
}

void Program::place(void* arena) {
  if (arena_ == arena) return;
  if (tensors_.empty()) {
    std::vector<Tensor> all;
    all.reserve(graph_.values.size());
    for (const Value& v : graph_.values) all.push_back(v.is_planned() ? Tensor{nullptr, v.dtype, v.shape} : bind_(v));
    tensors_ = std::move(all);
  }
  arena_ = static_cast<unsigned char*>(arena);
  for (size_t v = 0; v < tensors_.size(); v++)
    if (graph_.values[v].is_planned()) tensors_[v].data = arena_ + plan_.offsets[v];
  repeated_ = {};
}

// Calls upload(the input, its bytes) for the input of that name, should anything read it.
template <class F> void Program::for_input(const std::string& name, const void* data, F upload) {
  for (const Input& input : inputs_) {
    const Value& value = graph_.values[input.value];
    if (value.name != name) continue;
    if (size_of(value.dtype) == 4) {
      upload(input, data);
      continue;
    }
    with_float(value.dtype, [&]<class To>(To) {
      std::vector<To> narrowed(value.shape.elements());
      std::transform(static_cast<const float*>(data), static_cast<const float*>(data) + narrowed.size(), narrowed.begin(), narrow<To>);
      upload(input, narrowed.data());
    });
  }
}

void Program::write(const std::string& input, const void* data) {
  for_input(input, data,
            [&](const Input& at, const void* bytes) { backend_.upload(tensors_[at.value].data, bytes, tensors_[at.value].bytes()); });
}

void Program::prefetch(void* inputs, const std::string& input, const void* data, const Event* after) {
  for_input(input, data, [&](const Input& at, const void* bytes) {
    backend_.prefetch(static_cast<unsigned char*>(inputs) + at.offset, bytes, graph_.values[at.value].bytes(), after);
  });
}

void Program::take(const void* inputs) {
  for (const auto& [v, offset] : inputs_)
    backend_.copy(tensors_[v].data, static_cast<const unsigned char*>(inputs) + offset, tensors_[v].bytes());
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

Program::Times Program::run_timed(const std::function<void()>& end, const std::function<void(size_t)>& after) {
  using Clock = std::chrono::steady_clock;
  auto begin = Clock::now();
  const auto taken = [&] {
    char byte;
    backend_.download(&byte, arena_, 1);  // waits
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  taken();  // what was issued before does not count
  Times times;
  begin = Clock::now();
  run_each([&](size_t i) {
    times.nodes.push_back(taken());
    after(i);
    begin = Clock::now();
  });
  if (end) {
    end();
    times.end = taken();
  }
  return times;
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
  with_float(t.dtype, [&]<class From>(From) {
    std::vector<From> narrow(t.shape.elements());
    backend_.download(narrow.data(), t.data, t.bytes());
    std::transform(narrow.begin(), narrow.end(), data, [](From x) { return widen(x); });
  });
}

}  // namespace lorafuse
