// Capture of streams: what becomes a node, what joins, what is refused and then spoils the capture.
#include "runtime/failure.h"
#include "runtime/graph.h"

namespace ptxemu {

thread_local cudaStreamCaptureMode Graphs::thread_mode = cudaStreamCaptureModeGlobal;

void Graphs::begin(Stream& stream, cudaStreamCaptureMode mode) {
  require(!streams_.is_legacy(stream), cudaErrorStreamCaptureUnsupported, "the legacy default stream cannot be captured");
  require(!stream.capture, cudaErrorIllegalState, "the stream is being captured already");
  auto capture = std::make_unique<Capture>();
  capture->id = ++ids_;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  capture->streams.insert(&stream);
  capture->graph = std::make_unique<Graph>();
  stream.capture = capture.get();
  stream.tail.clear();
  captures_[capture->id] = std::move(capture);
}

void Graphs::close(Capture& capture) {
  for (Stream* stream : capture.streams) {
    stream->capture = nullptr;
    stream->tail.clear();
  }
  captures_.erase(capture.id);
}

Graph* Graphs::end(Stream& stream) {
  require(stream.capture, cudaErrorIllegalState, "cudaStreamEndCapture: the stream is not being captured");
  Capture& capture = *stream.capture;
  if (capture.origin != &stream)
    invalidate(capture, cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture: the capture began in another stream");
  require(capture.mode == cudaStreamCaptureModeRelaxed || capture.thread == std::this_thread::get_id(), cudaErrorStreamCaptureWrongThread,
          "cudaStreamEndCapture: the capture began on another thread");

  // What the end of the origin follows, directly or not; nodes only follow earlier ones.
  const size_t count = capture.graph->nodes.size();
  std::vector<bool> joined(count, false);
  for (size_t node : stream.tail) joined[node] = true;
  bool all = true;
  for (size_t node = count; node-- > 0;) {
    if (joined[node])
      for (size_t before : capture.graph->nodes[node]->after) joined[before] = true;
    else all = false;
  }
  const bool invalid = capture.invalid;
  std::unique_ptr<Graph> graph = std::move(capture.graph);
  close(capture);
  require(!invalid, cudaErrorStreamCaptureInvalidated, "the capture was spoiled by an earlier call that is not allowed in a capture");
  require(all, cudaErrorStreamCaptureUnjoined, "work captured in another stream was not joined to the stream in which the capture began");
  graph->id = ++ids_;
  return (graphs_[graph->id] = std::move(graph)).get();
}

Capture& Graphs::active(Stream& stream) {
  require(!stream.capture->invalid, cudaErrorStreamCaptureInvalidated,
          "the capture was spoiled by an earlier call that is not allowed in a capture");
  return *stream.capture;
}

Capture* Graphs::capture(uint64_t id) {
  const auto found = captures_.find(id);
  return found == captures_.end() ? nullptr : found->second.get();
}

void Graphs::add(Stream& stream, cudaGraphNodeType type, std::function<void()> work) {
  Graph& graph = *active(stream).graph;
  auto node = std::make_shared<Node>();
  node->type = type;
  node->lane = stream.id;
  node->work = std::move(work);
  node->after = stream.tail;
  graph.nodes.push_back(node);
  stream.tail = {graph.nodes.size() - 1};
}

void Graphs::record(Event& event, Stream& stream) {
  event.capture_id = active(stream).id;
  event.tail = stream.tail;
  event.mark = nullptr;
  event.moment = nullptr;
}

void Graphs::wait(Stream& stream, const Event& event) {
  Capture* from = event.capture_id ? capture(event.capture_id) : nullptr;
  if (stream.capture) {
    Capture& own = active(stream);
    if (!event.capture_id)
      invalidate(own, cudaErrorStreamCaptureIsolation, "a captured stream cannot wait for an event that was recorded outside the capture");
    if (from != &own) {
      if (from) from->invalid = true;
      invalidate(own, cudaErrorStreamCaptureMerge, "a captured stream cannot wait for an event of another capture");
    }
  } else {
    require(from, cudaErrorCapturedEvent, "the event was last recorded in a capture that has ended");
    if (streams_.is_legacy(stream)) invalidate(*from, cudaErrorStreamCaptureImplicit, "the legacy default stream cannot join a capture");
    require(!from->invalid, cudaErrorStreamCaptureInvalidated, "the event's capture was spoiled by an earlier call");
    stream.capture = from;
    from->streams.insert(&stream);
  }
  stream.tail.insert(event.tail.begin(), event.tail.end());
}

void Graphs::invalidate(Capture& capture, cudaError_t code, const char* text) {
  capture.invalid = true;
  throw Failure(code, text);
}

void Graphs::refuse_unsafe() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return;
  bool refused = false;
  for (const auto& [id, capture] : captures_) {
    const bool own = capture->thread == std::this_thread::get_id();
    if (own ? capture->mode == cudaStreamCaptureModeRelaxed
            : capture->mode != cudaStreamCaptureModeGlobal || thread_mode != cudaStreamCaptureModeGlobal)
      continue;
    refused = capture->invalid = true;
  }
  require(!refused, cudaErrorStreamCaptureUnsupported, "the call is not allowed while a stream is being captured");
}

void Graphs::refuse_legacy() {
  bool refused = false;
  for (const auto& [id, capture] : captures_) {
    for (const Stream* stream : capture->streams)
      if (stream->blocking) refused = capture->invalid = true;
  }
  require(!refused, cudaErrorStreamCaptureImplicit, "the legacy default stream cannot be used while a blocking stream is being captured");
}

void Graphs::refuse_all() {
  for (const auto& [id, capture] : captures_) capture->invalid = true;
  require(captures_.empty(), cudaErrorStreamCaptureUnsupported, "the device cannot be waited for while a stream is being captured");
}

void Graphs::refuse(Stream& stream) {
  if (stream.capture)
    invalidate(*stream.capture, cudaErrorStreamCaptureUnsupported, "a stream that is being captured cannot be waited for");
  if (streams_.is_legacy(stream)) refuse_legacy();
}

void Graphs::refuse(const Event& event) {
  if (!event.capture_id) return;
  if (Capture* from = capture(event.capture_id)) from->invalid = true;
  throw Failure(cudaErrorCapturedEvent, "the event was last recorded in a captured stream");
}

void Graphs::clear() {
  captures_.clear();
  graphs_.clear();
  execs_.clear();
}

}  // namespace ptxemu
