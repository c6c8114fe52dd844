// Captures: what CUDA refuses while a stream is captured, and what that does to the capture.
#include <thread>

#include "tests/runtime_gpu.h"

namespace ptxemu::test {
namespace {

constexpr int n = 32;

// A capture in global mode of a non-blocking stream; `call` is refused with `expected`, and so is the capture's end.
template <class Call> void refused(const char* name, cudaError_t expected, Call call,
                                   cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal, unsigned flags = cudaStreamNonBlocking) {
  fresh();
  int* x = ints(n);
  const cudaStream_t s = stream(flags), other = stream();
  const cudaEvent_t captured = event();
  MUST(cudaStreamBeginCapture(s, mode));
  add_all<<<1, n, 0, s>>>(x, n, 1);
  MUST(cudaEventRecord(captured, s));
  const cudaError_t error = call(s, other, captured, x);
  EXPECT(error == expected, name, ": expected ", cudaGetErrorName(expected), ", came ", cudaGetErrorName(error), ": ",
         cudaGetErrorString(error));
  cudaStreamCaptureStatus status;
  MUST(cudaStreamIsCapturing(s, &status));
  EXPECT(status == cudaStreamCaptureStatusInvalidated, name, ": status ", int(status));
  cudaGraph_t graph = nullptr;
  FAILS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT(!graph, name, ": a graph came back");
  MUST(cudaStreamSynchronize(s));
}

}  // namespace

SUITE(runtime_capture) {
  test_case("what a capture refuses, and that it is spoiled then", [] {
    using S = cudaStream_t;
    using E = cudaEvent_t;
    static int* host;
    host = nullptr;
    refused("synchronize", cudaErrorStreamCaptureUnsupported, [](S s, S, E, int*) { return cudaStreamSynchronize(s); });
    refused("query", cudaErrorStreamCaptureUnsupported, [](S s, S, E, int*) { return cudaStreamQuery(s); });
    refused("synchronize another", cudaErrorStreamCaptureUnsupported, [](S, S other, E, int*) { return cudaStreamSynchronize(other); });
    refused("device", cudaErrorStreamCaptureUnsupported, [](S, S, E, int*) { return cudaDeviceSynchronize(); });
    refused("event query", cudaErrorCapturedEvent, [](S, S, E e, int*) { return cudaEventQuery(e); });
    refused("event wait", cudaErrorCapturedEvent, [](S, S, E e, int*) { return cudaEventSynchronize(e); });
    refused("malloc", cudaErrorStreamCaptureUnsupported, [](S, S, E, int*) { return cudaMalloc(&host, 4); });
    refused("free", cudaErrorStreamCaptureUnsupported, [](S, S, E, int* x) { return cudaFree(x); });
    refused(
        "malloc, thread-local", cudaErrorStreamCaptureUnsupported, [](S, S, E, int*) { return cudaMallocHost(&host, 4); },
        cudaStreamCaptureModeThreadLocal);
    refused("memcpy", cudaErrorStreamCaptureUnsupported, [](S, S, E, int* x) {
      int y;
      return cudaMemcpy(&y, x, 4, cudaMemcpyDeviceToHost);
    });
    refused("pageable copy", cudaErrorStreamCaptureUnsupported, [](S s, S, E, int* x) {
      int y;
      return cudaMemcpyAsync(&y, x, 4, cudaMemcpyDeviceToHost, s);
    });
    refused(
        "default stream", cudaErrorStreamCaptureImplicit, [](S, S, E, int* x) { return cudaMemsetAsync(x, 0, 4, nullptr); },
        cudaStreamCaptureModeGlobal, cudaStreamDefault);
    refused("outside event", cudaErrorStreamCaptureIsolation, [](S s, S other, E, int*) {
      const E e = event();
      MUST(cudaEventRecord(e, other));
      return cudaStreamWaitEvent(s, e);
    });
    refused("ended in another stream", cudaErrorStreamCaptureUnmatched, [](S, S other, E e, int*) {
      cudaGraph_t graph;
      MUST(cudaStreamWaitEvent(other, e));
      return cudaStreamEndCapture(other, &graph);
    });
  });

  test_case("the default stream may be used while a non-blocking stream is captured, memory allocated in relaxed mode", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed));
    add_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaMemset(x, 0, n * sizeof(int)));
    ints(n);
    cudaGraph_t graph = nullptr;
    MUST(cudaStreamEndCapture(s, &graph));
  });

  test_case("work that was not joined is refused at the end", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t a = stream(), b = stream();
    const cudaEvent_t fork = event();
    cudaGraph_t graph = nullptr;
    MUST(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
    MUST(cudaEventRecord(fork, a));
    MUST(cudaStreamWaitEvent(b, fork));
    add_all<<<1, n, 0, b>>>(x, n, 1);
    FAILS(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
    MUST(cudaStreamSynchronize(b));
  });

  test_case("captures are not begun twice, not in the default stream, not ended without a beginning", [] {
    fresh();
    const cudaStream_t s = stream();
    cudaGraph_t graph = nullptr;
    FAILS(cudaStreamEndCapture(s, &graph), cudaErrorIllegalState);
    FAILS(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal), cudaErrorStreamCaptureUnsupported);
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    FAILS(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal), cudaErrorIllegalState);
    MUST(cudaStreamEndCapture(s, &graph));
    size_t count = 1;
    MUST(cudaGraphGetNodes(graph, nullptr, &count));
    EXPECT(count == 0, "came ", count);
  });

  test_case("a capture is told of, ended by the thread that began it, and lets other threads work in thread-local mode", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    cudaStreamCaptureStatus status;
    unsigned long long id = 0;
    cudaGraph_t graph = nullptr;
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    add_all<<<1, n, 0, s>>>(x, n, 1);
#if CUDART_VERSION >= 13000
    MUST(cudaStreamGetCaptureInfo(s, &status, &id));
#else
    MUST(cudaStreamGetCaptureInfo(s, &status, &id, nullptr, nullptr, nullptr));
#endif
    EXPECT(status == cudaStreamCaptureStatusActive && id > 0, "came ", int(status), " and ", id);
    cudaError_t ended = cudaSuccess, allocated = cudaSuccess;
    std::thread([&] {
      void* other = nullptr;
      cudaGraph_t none = nullptr;
      allocated = cudaMalloc(&other, 4);
      ended = cudaStreamEndCapture(s, &none);
    }).join();
    MUST(allocated);
    FAILS(ended, cudaErrorStreamCaptureWrongThread);
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    void* relaxed = nullptr;
    MUST(cudaThreadExchangeStreamCaptureMode(&mode));
    MUST(cudaMalloc(&relaxed, 4));
    MUST(cudaThreadExchangeStreamCaptureMode(&mode));
    MUST(cudaStreamEndCapture(s, &graph));
    cudaGraphExec_t exec = nullptr;
    MUST(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    MUST(cudaGraphUpload(exec, s));
  });
}

}  // namespace ptxemu::test
