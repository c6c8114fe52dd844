// Streams and events.
#include "runtime/queue.h"

using namespace ptxemu;

namespace {

void create(Runtime& r, cudaStream_t* stream, unsigned flags, int priority) {
  require(stream, cudaErrorInvalidValue, "no place for the stream");
  require(flags == cudaStreamDefault || flags == cudaStreamNonBlocking, cudaErrorInvalidValue, "unknown flags of a stream");
  *stream = r.streams.create(flags == cudaStreamDefault, priority);
}

void create_event(Runtime& r, cudaEvent_t* event, unsigned flags) {
  require(event, cudaErrorInvalidValue, "no place for the event");
  require(!(flags & ~unsigned(cudaEventBlockingSync | cudaEventDisableTiming)), cudaErrorInvalidValue, "unknown flags of an event");
  *event = r.streams.create_event(!(flags & cudaEventDisableTiming));
}

void record(Runtime& r, cudaEvent_t handle, cudaStream_t stream_handle) {
  Event& event = r.streams.event(handle);
  Stream& stream = r.streams.stream(stream_handle);
  if (stream.capture) return r.graphs.record(event, stream);
  if (r.streams.is_legacy(stream)) r.graphs.refuse_legacy();
  r.streams.record(event, stream);
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return call([&](Runtime& r) { create(r, stream, cudaStreamDefault, 0); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&](Runtime& r) { create(r, stream, flags, 0); });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return call([&](Runtime& r) { create(r, stream, flags, priority); });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call([&](Runtime&) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return call([&](Runtime& r) {
    Stream& stream = r.streams.stream(handle);
    require(!r.streams.is_legacy(stream) && handle != cudaStreamPerThread, cudaErrorInvalidResourceHandle,
            "a default stream cannot be destroyed");
    r.graphs.refuse(stream);
    r.streams.destroy(stream);
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call([&](Runtime& r) {
    Stream& stream = r.streams.stream(handle);
    r.graphs.refuse(stream);
    r.graphs.refuse_unsafe();
    r.streams.synchronize(stream);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call([&](Runtime& r) {
    Stream& stream = r.streams.stream(handle);
    r.graphs.refuse(stream);
    r.graphs.refuse_unsafe();
    r.scheduler.progress();
    require(r.streams.idle(stream), cudaErrorNotReady, "the stream has work that has not run");
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned flags) {
  return call([&](Runtime& r) {
    require(flags == cudaEventWaitDefault, cudaErrorInvalidValue, "the emulator knows no external event nodes");
    Stream& stream = r.streams.stream(handle);
    const Event& event = r.streams.event(event_handle);
    if (stream.capture || event.capture_id) return r.graphs.wait(stream, event);
    if (r.streams.is_legacy(stream)) r.graphs.refuse_legacy();
    r.streams.wait(stream, event);
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return call([&](Runtime& r) {
    require(function, cudaErrorInvalidValue, "no host function");
    enqueue(r, r.streams.stream(handle), cudaGraphNodeTypeHost, [&r, function, data] {
      r.in_host_function = true;
      function(data);
      r.in_host_function = false;
    });
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return call([&](Runtime& r) { create_event(r, event, cudaEventDefault); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&](Runtime& r) { create_event(r, event, flags); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&](Runtime& r) { record(r, event, stream); });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return call([&](Runtime& r) {
    require(flags == cudaEventRecordDefault, cudaErrorInvalidValue, "the emulator knows no external event nodes");
    record(r, event, stream);
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call([&](Runtime& r) {
    const Event& event = r.streams.event(handle);
    r.graphs.refuse(event);
    r.graphs.refuse_unsafe();
    r.scheduler.finish(event.mark);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call([&](Runtime& r) {
    const Event& event = r.streams.event(handle);
    r.graphs.refuse(event);
    r.graphs.refuse_unsafe();
    r.scheduler.progress();
    require(!event.mark || event.mark->done, cudaErrorNotReady, "the event has not happened");
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return call([&](Runtime& r) {
    for (cudaEvent_t handle : {from, to}) {
      const Event& event = r.streams.event(handle);
      r.graphs.refuse(event);
      require(event.timed && event.mark, cudaErrorInvalidResourceHandle,
              "an event was never recorded, or made with cudaEventDisableTiming");
      require(event.mark->done, cudaErrorNotReady, "an event has not happened");
    }
    *milliseconds = std::chrono::duration<float, std::milli>(*to->moment - *from->moment).count();
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return call([&](Runtime& r) { r.streams.destroy_event(r.streams.event(handle)); });
}
}
