// Graphs: what is replayed, and in which order.
#include "tests/runtime_gpu.h"

namespace ptxemu::test {
namespace {

constexpr int n = 32;

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
