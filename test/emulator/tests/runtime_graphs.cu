// Capture and graphs: what is replayed, in which order, and what CUDA refuses in between.
#include "tests/runtime_card.h"

namespace ptxemu::test {
namespace {

constexpr int n = 32;

cudaStream_t stream(unsigned flags = cudaStreamNonBlocking) {
  cudaStream_t s = nullptr;
  MUST(cudaStreamCreateWithFlags(&s, flags));
  return s;
}
cudaEvent_t event() {
  cudaEvent_t e = nullptr;
  MUST(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
  return e;
}

size_t nodes(cudaGraph_t graph) {
  size_t count = 0;
  MUST(cudaGraphGetNodes(graph, nullptr, &count));
  return count;
}

cudaGraphExec_t end(cudaStream_t s) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  MUST(cudaStreamEndCapture(s, &graph));
  MUST(cudaGraphInstantiate(&exec, graph, 0));
  MUST(cudaGraphDestroy(graph));
  return exec;
}

// A capture in global mode of a non-blocking stream; `call` is refused with `expected`, and so is the capture's end.
template <class Call>
void refused(const char* name, cudaError_t expected, Call call, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal,
             unsigned flags = cudaStreamNonBlocking) {
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

SUITE(runtime_graphs) {
  test_case("captured work does not run before the graph is launched, then each time", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    MUST(cudaMemsetAsync(x, 0, n * sizeof(int), s));
    MUST(cudaStreamSynchronize(s));
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    add_all<<<1, n, 0, s>>>(x, n, 3);
    const cudaGraphExec_t exec = end(s);
    EXPECT(values(x, n)[0] == 0, "came ", values(x, n)[0]);
    for (int i = 0; i < 4; ++i) MUST(cudaGraphLaunch(exec, s));
    EXPECT(values(x, n)[0] == 12, "came ", values(x, n)[0]);
    MUST(cudaGraphExecDestroy(exec));
  });

  test_case("arguments are those of the capture, pinned memory is read at each launch", [] {
    fresh();
    int *x = ints(n), *host = pinned(n, 5), value = 2;
    const cudaStream_t s = stream();
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    MUST(cudaMemcpyAsync(x, host, n * sizeof(int), cudaMemcpyHostToDevice, s));
    add_all<<<1, n, 0, s>>>(x, n, value);
    const cudaGraphExec_t exec = end(s);
    value = 100;
    MUST(cudaGraphLaunch(exec, s));
    EXPECT(values(x, n)[0] == 7, "came ", values(x, n)[0]);
    host[0] = 50;
    MUST(cudaGraphLaunch(exec, s));
    EXPECT(values(x, n)[0] == 52, "came ", values(x, n)[0]);
  });

  test_case("a graph outlives its executable while it runs", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    set_all<<<1, n, 0, s>>>(x, n, 3);
    const cudaGraphExec_t exec = end(s);
    MUST(cudaGraphLaunch(exec, s));
    MUST(cudaGraphExecDestroy(exec));
    FAILS(cudaGraphLaunch(exec, s), cudaErrorInvalidValue);
    EXPECT(values(x, n)[0] == 3, "came ", values(x, n)[0]);
  });

  test_case("a fork and its join: both branches after the root, the end after both, the branches in any order", [] {
    bool first = false, second = false;
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      int* y = ints(1);
      const cudaStream_t a = stream(), b = stream();
      const cudaEvent_t fork = event(), join = event();
      MUST(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal));
      MUST(cudaMemsetAsync(y, 0, sizeof(int), a));
      append_digit<<<1, 1, 0, a>>>(y, 1);
      MUST(cudaEventRecord(fork, a));
      MUST(cudaStreamWaitEvent(b, fork));
      append_digit<<<1, 1, 0, b>>>(y, 2);
      append_digit<<<1, 1, 0, a>>>(y, 3);
      MUST(cudaEventRecord(join, b));
      MUST(cudaStreamWaitEvent(a, join));
      append_digit<<<1, 1, 0, a>>>(y, 4);
      MUST(cudaGraphLaunch(end(a), a));
      const int result = values(y, 1)[0];
      EXPECT(result == 1234 || result == 1324, "seed ", seed, ": came ", result);
      first |= result == 1234;
      second |= result == 1324;
    }
    EXPECT(first && second, "the branches always ran in the same order");
  });

  test_case("a graph follows the stream that it is launched in, and that stream follows it", [] {
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      int* y = ints(1);
      const cudaStream_t captured = stream(), s = stream();
      MUST(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
      append_digit<<<1, 1, 0, captured>>>(y, 2);
      const cudaGraphExec_t exec = end(captured);
      MUST(cudaMemsetAsync(y, 0, sizeof(int), s));
      append_digit<<<1, 1, 0, s>>>(y, 1);
      MUST(cudaGraphLaunch(exec, s));
      append_digit<<<1, 1, 0, s>>>(y, 3);
      EXPECT(values(y, 1)[0] == 123, "seed ", seed, ": came ", values(y, 1)[0]);
    }
  });

  test_case("launches of the same graph follow each other, in two streams too", [] {
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      int* y = ints(1);
      const cudaStream_t captured = stream(), a = stream(), b = stream();
      const cudaStream_t branch = stream();
      const cudaEvent_t fork = event(), join = event();
      MUST(cudaStreamBeginCapture(captured, cudaStreamCaptureModeGlobal));
      append_digit<<<1, 1, 0, captured>>>(y, 1);
      MUST(cudaEventRecord(fork, captured));
      MUST(cudaStreamWaitEvent(branch, fork));
      append_digit<<<1, 1, 0, branch>>>(y, 2);
      MUST(cudaEventRecord(join, branch));
      MUST(cudaStreamWaitEvent(captured, join));
      const cudaGraphExec_t exec = end(captured);
      MUST(cudaMemset(y, 0, sizeof(int)));
      MUST(cudaDeviceSynchronize());
      MUST(cudaGraphLaunch(exec, a));
      MUST(cudaGraphLaunch(exec, b));
      EXPECT(values(y, 1)[0] == 1212, "seed ", seed, ": came ", values(y, 1)[0]);
    }
  });

  test_case("nodes are counted, with their types", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    cudaGraph_t graph = nullptr;
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    MUST(cudaMemsetAsync(x, 0, n * sizeof(int), s));
    add_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaStreamEndCapture(s, &graph));
    EXPECT(nodes(graph) == 2, "came ", nodes(graph));
    cudaGraphNode_t all[2];
    size_t count = 2;
    cudaGraphNodeType type;
    MUST(cudaGraphGetNodes(graph, all, &count));
    MUST(cudaGraphNodeGetType(all[1], &type));
    EXPECT(type == cudaGraphNodeTypeKernel, "came ", int(type));
  });

  test_case("a graph launched into a capture becomes a part of it", [] {
    fresh();
    int* y = ints(1);
    const cudaStream_t s = stream();
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    append_digit<<<1, 1, 0, s>>>(y, 2);
    const cudaGraphExec_t inner = end(s);
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    MUST(cudaMemsetAsync(y, 0, sizeof(int), s));
    append_digit<<<1, 1, 0, s>>>(y, 1);
    MUST(cudaGraphLaunch(inner, s));
    append_digit<<<1, 1, 0, s>>>(y, 3);
    MUST(cudaGraphLaunch(end(s), s));
    EXPECT(values(y, 1)[0] == 123, "came ", values(y, 1)[0]);
  });

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
    refused("malloc, thread-local", cudaErrorStreamCaptureUnsupported, [](S, S, E, int*) { return cudaMallocHost(&host, 4); },
            cudaStreamCaptureModeThreadLocal);
    refused("memcpy", cudaErrorStreamCaptureUnsupported,
            [](S, S, E, int* x) { int y; return cudaMemcpy(&y, x, 4, cudaMemcpyDeviceToHost); });
    refused("pageable copy", cudaErrorStreamCaptureUnsupported,
            [](S s, S, E, int* x) { int y; return cudaMemcpyAsync(&y, x, 4, cudaMemcpyDeviceToHost, s); });
    refused("default stream", cudaErrorStreamCaptureImplicit,
            [](S, S, E, int* x) { return cudaMemsetAsync(x, 0, 4, nullptr); }, cudaStreamCaptureModeGlobal, cudaStreamDefault);
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
    MUST(cudaGraphLaunch(end(s), s));
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
    EXPECT(nodes(graph) == 0, "came ", nodes(graph));
  });

  test_case("a graph that outlives its memory is found out", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    add_all<<<1, n, 0, s>>>(x, n, 1);
    const cudaGraphExec_t exec = end(s);
    MUST(cudaFree(x));
    MUST(cudaGraphLaunch(exec, s));
    FAILS(cudaStreamSynchronize(s), cudaErrorIllegalAddress);
    fresh();
  });
}

}  // namespace ptxemu::test
