// Streams and events. A stream is the rule by which an operation follows earlier ones (CUDA C++ Programming Guide, "Streams"):
// the same stream's last one; in the legacy default stream those of all blocking streams, and the other way round.
#pragma once
#include <cuda_runtime_api.h>

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "runtime/scheduler.h"

namespace ptxemu {
struct Capture;
using Moment = std::chrono::steady_clock::time_point;
}  // namespace ptxemu

struct CUstream_st {
  uint64_t id = 0;
  bool blocking = true;
  int priority = 0;
  ptxemu::OperationRef last;
  // While it is captured: the capture and the nodes that its next node follows.
  ptxemu::Capture* capture = nullptr;
  std::set<size_t> tail;
};

struct CUevent_st {
  uint64_t id = 0;
  bool timed = true;
  ptxemu::OperationRef mark;               // nullptr = never recorded
  std::shared_ptr<ptxemu::Moment> moment;  // of the mark, once it has run
  // Recorded in a captured stream: which capture, and the nodes before it.
  uint64_t capture_id = 0;
  std::set<size_t> tail;
};

namespace ptxemu {

using Stream = CUstream_st;
using Event = CUevent_st;

class Streams {
 public:
  explicit Streams(Scheduler& scheduler) : scheduler_(scheduler) { legacy_.id = 1; }

  // The stream of a handle, the legacy and the per-thread default stream included; throws Failure(cudaErrorInvalidResourceHandle).
  Stream& stream(cudaStream_t handle);
  Event& event(cudaEvent_t handle);
  Stream& legacy() { return legacy_; }
  bool is_legacy(const Stream& stream) const { return &stream == &legacy_; }

  Stream* create(bool blocking, int priority);
  void destroy(Stream& stream);  // work that is queued in it still runs
  Event* create_event(bool timed);
  void destroy_event(Event& event);

  // Queues work (empty: a mark) in the stream, after `more` as well.
  OperationRef submit(Stream& stream, std::function<void()> work, std::vector<OperationRef> more = {});
  void record(Event& event, Stream& stream);
  void wait(Stream& stream, const Event& event);
  bool idle(Stream& stream) const;
  void synchronize(Stream& stream);

  const std::map<uint64_t, std::unique_ptr<Stream>>& streams() const { return streams_; }
  const std::map<uint64_t, std::unique_ptr<Event>>& events() const { return events_; }
  void clear();

 private:
  Scheduler& scheduler_;
  Stream legacy_;
  std::map<std::thread::id, Stream> per_thread_;
  std::map<uint64_t, std::unique_ptr<Stream>> streams_;  // by id
  std::map<uint64_t, std::unique_ptr<Event>> events_;
  std::vector<OperationRef> orphans_;  // last operations of blocking streams that were destroyed
  uint64_t ids_ = 1;
};

}  // namespace ptxemu
