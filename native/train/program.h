// A planned graph bound to memory: ready to run, as often as wanted, without a decision left to make.
#pragma once
#include <array>
#include <functional>
#include <set>

#include "../graph/backend.h"

namespace lorafuse {

class Program {
 public:
  // Gives the memory of a weight, parameter or gradient, by its value; asked when the program is first placed.
  using Bind = std::function<Tensor(const Value&)>;
  Program(Backend& backend, Graph graph, Bind bind);

  const Graph& graph() const { return graph_; }
  const Plan& plan() const { return plan_; }
  size_t arena_bytes() const { return plan_.arena_bytes; }
  size_t workspace_bytes() const;  // the largest of all nodes
  const std::vector<size_t>& workspaces() const { return workspaces_; }
  // Whose weights and adapters it reads.
  const std::set<std::string>& networks() const { return networks_; }
  // What it holds itself once it is placed, in this machine's memory.
  size_t host_bytes() const;

  // Values move with the arena: call before write(), run(), read() whenever the arena is another.
  void place(void* arena);
  // `data` is f32, or i32 where the input is; it is rounded to the input's type.
  void write(const std::string& input, const void* data);
  // Stages an input of a later run in `inputs`, a buffer of input_bytes() outside the arena that is idle after `after`.
  // take() copies the staged inputs into the arena.
  size_t input_bytes() const { return input_bytes_; }
  void prefetch(void* inputs, const std::string& input, const void* data, const Event* after);
  void take(const void* inputs);
  // Runs all nodes, then `end`, which is always the same. From the second time on a captured graph of all that is replayed.
  void run(std::function<void()> end = {});
  // What nodes and the end took, in seconds.
  struct Times {
    std::vector<double> nodes;
    double end = 0;
  };
  // As run(), but node by node, each of which is waited for; calls `after(node)` then, which does not count.
  Times run_timed(const std::function<void()>& end, const std::function<void(size_t)>& after);
  // Runs the nodes one by one; calls `after(node)` after each.
  void run_each(const std::function<void(size_t node)>& after);
  // Throws what the kernel throws, with the name of the layer.
  void run_node(size_t node);
  void read(size_t result, float* data) { read_value(graph_.results.at(result), data); }
  void read_value(ValueId v, float* data);  // widened to f32
  const Tensor& tensor(ValueId v) const { return tensors_.at(v); }
  const Tensor& result(size_t result) const { return tensors_.at(graph_.results.at(result)); }
  const Shape& result_shape(size_t result) const { return graph_.shape(graph_.results.at(result)); }
  void* workspace(size_t node) const { return arena_ + plan_.workspaces.at(node); }

 private:
  template <class F> void for_input(const std::string& name, const void* data, F upload);

  Backend& backend_;
  Graph graph_;
  std::vector<size_t> workspaces_;
  Plan plan_;
  std::set<std::string> networks_;
  Bind bind_;
  // An input that is read, and where it lies in a block of inputs.
  struct Input { size_t value, offset; };
  std::vector<Input> inputs_;
  size_t input_bytes_ = 0;
  std::vector<Tensor> tensors_;
  unsigned char* arena_ = nullptr;
  struct Repeated {
    int runs = 0;                             // at these addresses
    std::unique_ptr<CapturedGraph> captured;  // from the second on
  };
  std::array<Repeated, 2> repeated_;  // without and with an end
};

}  // namespace lorafuse
