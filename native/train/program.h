// A planned graph bound to memory: ready to run, as often as wanted, without a decision left to make.
#pragma once
#include <functional>

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

  // Values move with the arena: call before write(), run(), read() whenever the arena is another.
  void place(void* arena);
  // `data` is f32, or i32 where the input is; it is rounded to the input's type.
  void write(const std::string& input, const void* data);
  // From the second time on a recording of the first is replayed.
  // poison: memory is filled with NaN as soon as the plan says that nobody reads it any more.
  void run(bool poison = false);
  void read(size_t result, float* data);
  // Milliseconds that a node takes, run alone several times: for benchmarks.
  double time_node(size_t node);
  const Shape& result_shape(size_t result) const { return graph_.shape(graph_.results.at(result)); }

 private:
  void run_nodes(bool poison);

  Backend& backend_;
  Graph graph_;
  std::vector<size_t> workspaces_;
  Plan plan_;
  Bind bind_;
  std::vector<Tensor> tensors_;
  unsigned char* arena_ = nullptr;
  int runs_ = 0;                           // at these addresses
  std::unique_ptr<Recording> recording_;  // of all nodes, from the second run on
};

}  // namespace lorafuse
