// Graphs and the capture of streams into them (CUDA C++ Programming Guide, "CUDA Graphs", "Cross-stream Dependencies and Events",
// "Prohibited and Unhandled Operations").
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "runtime/stream.h"

struct CUgraphNode_st {
  cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
  uint64_t lane = 0;           // the stream it was captured in
  std::function<void()> work;  // may be called again and again
  std::set<size_t> after;      // nodes of the same graph, all of them earlier
};

struct CUgraph_st {
  uint64_t id = 0;
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  uint64_t id = 0;
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
  ptxemu::OperationRef last;  // the end of the previous launch: one launch at a time
};

namespace ptxemu {

using Node = CUgraphNode_st;
using Graph = CUgraph_st;
using GraphExec = CUgraphExec_st;

struct Capture {
  uint64_t id = 0;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  Stream* origin = nullptr;
  std::set<Stream*> streams;
  std::unique_ptr<Graph> graph;
  bool invalid = false;
};

class Graphs {
 public:
  Graphs(Scheduler& scheduler, Streams& streams) : scheduler_(scheduler), streams_(streams) {}

  void begin(Stream& stream, cudaStreamCaptureMode mode);
  Graph* end(Stream& stream);  // throws after the capture is gone

  // While `stream` is captured: adds a node, marks an event, follows one.
  void add(Stream& stream, cudaGraphNodeType type, std::function<void()> work);
  void record(Event& event, Stream& stream);
  void wait(Stream& stream, const Event& event);

  // These throw, and invalidate the captures concerned, where a call is not allowed because of a capture.
  void refuse_unsafe();         // calls that may wait for or change what a capture needs: cudaMalloc, …
  void refuse_legacy();         // use of the legacy stream
  void refuse_all();            // cudaDeviceSynchronize: it encompasses every captured stream
  void refuse(Stream& stream);  // query or wait for a captured stream
  void refuse(const Event& event);

  GraphExec* instantiate(const Graph& graph);
  // `prepare` makes of a kernel's work what is queued: failures are injected there.
  void launch(GraphExec& exec, Stream& stream, const std::function<std::function<void()>(std::function<void()>)>& prepare);

  Graph& graph(cudaGraph_t handle);
  GraphExec& exec(cudaGraphExec_t handle);
  void destroy(Graph& graph) { graphs_.erase(graph.id); }
  void destroy(GraphExec& exec) { execs_.erase(exec.id); }
  const std::map<uint64_t, std::unique_ptr<Graph>>& graphs() const { return graphs_; }
  const std::map<uint64_t, std::unique_ptr<GraphExec>>& execs() const { return execs_; }
  void clear();

  static thread_local cudaStreamCaptureMode thread_mode;  // cudaThreadExchangeStreamCaptureMode

 private:
  [[noreturn]] void invalidate(Capture& capture, cudaError_t code, const char* text);
  Capture& active(Stream& stream);
  Capture* capture(uint64_t id);
  void close(Capture& capture);

  Scheduler& scheduler_;
  Streams& streams_;
  std::map<uint64_t, std::unique_ptr<Capture>> captures_;
  std::map<uint64_t, std::unique_ptr<Graph>> graphs_;
  std::map<uint64_t, std::unique_ptr<GraphExec>> execs_;
  uint64_t ids_ = 0;  // also of graphs that are gone: an event may name a capture
};

}  // namespace ptxemu
