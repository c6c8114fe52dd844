#include "runtime/stream.h"

#include <algorithm>

#include "runtime/failure.h"

namespace ptxemu {

Stream& Streams::stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return legacy_;
  if (handle == cudaStreamPerThread) {
    Stream& own = per_thread_[std::this_thread::get_id()];
    if (own.id == 0) own.id = ++ids_;
    return own;
  }
  for (const auto& [id, stream] : streams_)
    if (stream.get() == handle) return *stream;
  throw Failure(cudaErrorInvalidResourceHandle, "the stream does not exist or was destroyed");
}

Event& Streams::event(cudaEvent_t handle) {
  for (const auto& [id, event] : events_)
    if (event.get() == handle) return *event;
  throw Failure(cudaErrorInvalidResourceHandle, "the event does not exist or was destroyed");
}

Stream* Streams::create(bool blocking, int priority) {
  auto stream = std::make_unique<Stream>();
  stream->id = ++ids_;
  stream->blocking = blocking;
  stream->priority = priority;
  return (streams_[stream->id] = std::move(stream)).get();
}

void Streams::destroy(Stream& stream) {
  if (stream.blocking && stream.last && !stream.last->done) orphans_.push_back(stream.last);
  streams_.erase(stream.id);
}

Event* Streams::create_event(bool timed) {
  auto event = std::make_unique<Event>();
  event->id = ++ids_;
  event->timed = timed;
  return (events_[event->id] = std::move(event)).get();
}

void Streams::destroy_event(Event& event) { events_.erase(event.id); }

OperationRef Streams::submit(Stream& stream, std::function<void()> work, std::vector<OperationRef> more) {
  more.push_back(stream.last);
  if (is_legacy(stream)) {
    for (const auto& [id, other] : streams_)
      if (other->blocking) more.push_back(other->last);
    for (const auto& [thread, other] : per_thread_) more.push_back(other.last);
    more.insert(more.end(), orphans_.begin(), orphans_.end());
    orphans_.clear();
  } else if (stream.blocking) {
    more.push_back(legacy_.last);
  }
  return stream.last = scheduler_.submit(stream.id, std::move(work), more);
}

void Streams::record(Event& event, Stream& stream) {
  std::function<void()> stamp;
  if (event.timed) {
    event.moment = std::make_shared<Moment>();
    stamp = [moment = event.moment] { *moment = std::chrono::steady_clock::now(); };
  }
  event.mark = submit(stream, stamp);
  event.capture_id = 0;
  event.tail.clear();
}

void Streams::wait(Stream& stream, const Event& event) {
  if (event.mark && !event.mark->done) submit(stream, nullptr, {event.mark});
}

bool Streams::idle(Stream& stream) const {
  const auto done = [](const Stream& s) { return !s.last || s.last->done; };
  if (!is_legacy(stream)) return done(stream);
  const auto passed = [&](const auto& s) { return !s.second->blocking || done(*s.second); };
  return done(legacy_) && std::all_of(streams_.begin(), streams_.end(), passed) &&
         std::all_of(per_thread_.begin(), per_thread_.end(), [&](const auto& s) { return done(s.second); }) &&
         std::all_of(orphans_.begin(), orphans_.end(), [](const OperationRef& o) { return o->done; });
}

void Streams::synchronize(Stream& stream) {
  if (!idle(stream)) scheduler_.finish(submit(stream, nullptr));
}

void Streams::clear() {
  streams_.clear();
  events_.clear();
  per_thread_.clear();
  orphans_.clear();
  legacy_ = Stream{};
  legacy_.id = ids_ = 1;
}

}  // namespace ptxemu
