// A planned graph bound to memory: ready to run, as often as wanted, without a decision left to make.
#pragma once
#include <array>
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
  // The same for a run to come, into a block of input_bytes() elsewhere that nothing uses after the mark; take() makes them this run's.
  size_t input_bytes() const { return input_bytes_; }
  void prefetch(void* inputs, const std::string& input, const void* data, const Mark* after);
  void take(const void* inputs);
  // Then `end`, always the same one. From the second time on a recording of all that is replayed.
  void run(std::function<void()> end = {});
  // Memory is filled with NaN as soon as the plan says that nobody reads it any more.
  void run_poisoned() { run_nodes(true); }
  void read(size_t result, float* data);
  const Tensor& result(size_t result) const { return tensors_.at(graph_.results.at(result)); }
  // Milliseconds that a node takes, run alone several times: for benchmarks.
  double time_node(size_t node);
  const Shape& result_shape(size_t result) const { return graph_.shape(graph_.results.at(result)); }

 private:
  void run_nodes(bool poison);
  bool is_read_input(size_t value) const;
  template <class F>
  void for_input(const std::string& name, const void* data, F upload);

  Backend& backend_;
  Graph graph_;
  std::vector<size_t> workspaces_;
  Plan plan_;
  Bind bind_;
  std::vector<size_t> input_offsets_;  // of each value that is an input, in a block of inputs
  size_t input_bytes_ = 0;
  std::vector<Tensor> tensors_;
  unsigned char* arena_ = nullptr;
  struct Repeated {
    int runs = 0;                          // at these addresses
    std::unique_ptr<Recording> recording;  // from the second on
  };
  std::array<Repeated, 2> repeated_;  // without and with an end
};

}  // namespace lorafuse
