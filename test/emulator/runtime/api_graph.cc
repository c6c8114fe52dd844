// Capture of streams and graphs.
#include "runtime/queue.h"

using namespace ptxemu;

namespace {

cudaStreamCaptureStatus status(const Stream& stream) {
  if (!stream.capture) return cudaStreamCaptureStatusNone;
  return stream.capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

void capture_info(Runtime& r, cudaStream_t handle, cudaStreamCaptureStatus* out, unsigned long long* id, cudaGraph_t* graph,
                  const cudaGraphNode_t** dependencies, size_t* count) {
  thread_local std::vector<cudaGraphNode_t> nodes;
  const Stream& stream = r.streams.stream(handle);
  *out = status(stream);
  if (*out != cudaStreamCaptureStatusActive) return;
  nodes.clear();
  for (size_t node : stream.tail) nodes.push_back(stream.capture->graph->nodes[node].get());
  if (id) *id = stream.capture->id;
  if (graph) *graph = stream.capture->graph.get();
  if (dependencies) *dependencies = nodes.data();
  if (count) *count = nodes.size();
}

void instantiate(Runtime& r, cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  require(exec, cudaErrorInvalidValue, "no place for the executable graph");
  require(flags == 0, cudaErrorInvalidValue, "the emulator knows no flags of cudaGraphInstantiate");
  *exec = r.graphs.instantiate(r.graphs.graph(graph));
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call([&](Runtime& r) { r.graphs.begin(r.streams.stream(stream), mode); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return call([&](Runtime& r) {
    require(graph, cudaErrorInvalidValue, "no place for the graph");
    *graph = nullptr;
    *graph = r.graphs.end(r.streams.stream(stream));
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* out) {
  return call([&](Runtime& r) {
    Stream& stream = r.streams.stream(handle);
    if (r.streams.is_legacy(stream)) r.graphs.refuse_legacy();
    *out = status(stream);
  });
}

#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* out, unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges, size_t* count) {
  return call([&](Runtime& r) {
    if (edges) *edges = nullptr;
    capture_info(r, stream, out, id, graph, dependencies, count);
  });
}
#else
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* out, unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, size_t* count) {
  return call([&](Runtime& r) { capture_info(r, stream, out, id, graph, dependencies, count); });
}
#endif

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return call([&](Runtime&) { std::swap(*mode, Graphs::thread_mode); });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return call([&](Runtime& r) { instantiate(r, exec, graph, flags); });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  return call([&](Runtime& r) { instantiate(r, exec, graph, flags); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  return call([&](Runtime& r) {
    r.graphs.exec(exec);
    r.streams.stream(stream);
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  return call([&](Runtime& r) {
    GraphExec& graph = r.graphs.exec(exec);
    Stream& stream = r.streams.stream(handle);
    if (r.streams.is_legacy(stream)) r.graphs.refuse_legacy();
    r.graphs.launch(graph, stream, [&r](std::function<void()> work) { return with_injection(r, std::move(work)); });
  });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes, size_t* count) {
  return call([&](Runtime& r) {
    const Graph& graph = r.graphs.graph(handle);
    require(count, cudaErrorInvalidValue, "no place for the number of nodes");
    for (size_t i = 0; nodes && i < *count; ++i) nodes[i] = i < graph.nodes.size() ? graph.nodes[i].get() : nullptr;
    *count = graph.nodes.size();
  });
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  return call([&](Runtime&) {
    require(node && type, cudaErrorInvalidValue, "no node, or no place for its type");
    *type = node->type;
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return call([&](Runtime& r) { r.graphs.destroy(r.graphs.exec(exec)); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call([&](Runtime& r) { r.graphs.destroy(r.graphs.graph(graph)); });
}
}
