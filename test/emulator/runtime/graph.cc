// Graphs: instantiation and launch. Nodes run as soon as the nodes before them have, in an order that the scheduler draws.
#include "runtime/graph.h"

#include "runtime/failure.h"

namespace ptxemu {

Graph& Graphs::graph(cudaGraph_t handle) {
  for (const auto& [id, graph] : graphs_)
    if (graph.get() == handle) return *graph;
  throw Failure(cudaErrorInvalidValue, "the graph does not exist or was destroyed");
}

GraphExec& Graphs::exec(cudaGraphExec_t handle) {
  for (const auto& [id, exec] : execs_)
    if (exec.get() == handle) return *exec;
  throw Failure(cudaErrorInvalidValue, "the executable graph does not exist or was destroyed");
}

GraphExec* Graphs::instantiate(const Graph& graph) {
  auto exec = std::make_unique<GraphExec>();
  exec->id = ++ids_;
  exec->nodes = graph.nodes;
  return (execs_[exec->id] = std::move(exec)).get();
}

void Graphs::launch(GraphExec& exec, Stream& stream, const std::function<std::function<void()>(std::function<void()>)>& prepare) {
  std::vector<bool> followed(exec.nodes.size(), false);
  for (const auto& node : exec.nodes)
    for (size_t before : node->after) followed[before] = true;

  if (stream.capture) {  // its nodes join the capture
    Graph& graph = *active(stream).graph;
    const size_t first = graph.nodes.size();
    std::set<size_t> ends;
    for (size_t i = 0; i < exec.nodes.size(); ++i) {
      auto node = std::make_shared<Node>(*exec.nodes[i]);
      node->after.clear();
      for (size_t before : exec.nodes[i]->after) node->after.insert(first + before);
      if (node->after.empty()) node->after = stream.tail;
      if (!followed[i]) ends.insert(first + i);
      graph.nodes.push_back(node);
    }
    if (!ends.empty()) stream.tail = ends;
    return;
  }

  const OperationRef start = streams_.submit(stream, nullptr, {exec.last});
  std::vector<OperationRef> operations, ends;
  for (size_t i = 0; i < exec.nodes.size(); ++i) {
    const Node& node = *exec.nodes[i];
    std::vector<OperationRef> after;
    for (size_t before : node.after) after.push_back(operations[before]);
    if (after.empty()) after.push_back(start);
    operations.push_back(scheduler_.submit(node.lane, node.type == cudaGraphNodeTypeKernel ? prepare(node.work) : node.work, after));
    if (!followed[i]) ends.push_back(operations.back());
  }
  exec.last = streams_.submit(stream, nullptr, ends);
}

}  // namespace ptxemu
