// Streams: what waits for what, and that a missing wait shows.
#include "tests/runtime_gpu.h"

namespace ptxemu::test {
namespace {

constexpr int n = 64;

// A kernel of one stream changes what another stream's copy brought; `wait`: the copy is waited for. The first of the results.
int copy_then_add(bool wait, int copies) {
  int *x = ints(n), *host = pinned(n, 7);
  const cudaStream_t copy = stream(), compute = stream();
  MUST(cudaMemset(x, 0, n * sizeof(int)));
  MUST(cudaDeviceSynchronize());
  for (int i = 0; i < copies; ++i) MUST(cudaMemcpyAsync(x, host, n * sizeof(int), cudaMemcpyHostToDevice, copy));
  if (wait) {
    const cudaEvent_t copied = event();
    MUST(cudaEventRecord(copied, copy));
    MUST(cudaStreamWaitEvent(compute, copied));
  }
  add_all<<<1, n, 0, compute>>>(x, n, 1);
  MUST(cudaGetLastError());
  return values(x, n)[0];
}

int how_often(int expected, int (*result)(int seed)) {
  int found = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    fresh(75, seed);
    found += result(seed) == expected;
  }
  return found;
}

// One append in a blocking stream `other`, one in the default stream, one in `other` again.
int around_default(unsigned flags) {
  int* y = ints(1);
  const cudaStream_t other = stream(flags);
  MUST(cudaMemset(y, 0, sizeof(int)));
  MUST(cudaDeviceSynchronize());
  append_digit<<<1, 1, 0, other>>>(y, 1);
  append_digit<<<1, 1>>>(y, 2);
  append_digit<<<1, 1, 0, other>>>(y, 3);
  MUST(cudaGetLastError());
  return values(y, 1)[0];
}

}  // namespace

SUITE(runtime_streams) {
  test_case("work is queued until something waits for it", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    set_all<<<1, n, 0, s>>>(x, n, 5);
    MUST(cudaGetLastError());
    EXPECT(ptxemu_pending() == 1, "expected 1 queued, came ", ptxemu_pending());
    MUST(cudaStreamSynchronize(s));
    EXPECT(ptxemu_pending() == 0, "expected none queued, came ", ptxemu_pending());
    EXPECT(values(x, n)[n - 1] == 5, "came ", values(x, n)[n - 1]);
  });

  test_case("one stream keeps its order", [] {
    fresh();
    int* y = ints(1);
    const cudaStream_t s = stream();
    MUST(cudaMemsetAsync(y, 0, sizeof(int), s));
    for (int digit = 1; digit <= 7; ++digit) append_digit<<<1, 1, 0, s>>>(y, digit);
    MUST(cudaStreamSynchronize(s));
    EXPECT(values(y, 1)[0] == 1234567, "came ", values(y, 1)[0]);
  });

  test_case("a copy that is waited for is in time under every seed", [] {
    const int right = how_often(8, [](int) { return copy_then_add(true, 1); });
    EXPECT(right == seeds, right, " of ", seeds, " right");
  });

  test_case("a missing wait gives a wrong result under some seed and a right one under another", [] {
    const int right = how_often(8, [](int) { return copy_then_add(false, 1); });
    EXPECT(right > 0 && right < seeds, right, " of ", seeds, " right");
  });

  test_case("a missing wait shows at the end of a long queue too", [] {
    const int right = how_often(8, [](int) { return copy_then_add(false, 300); });
    EXPECT(right < seeds, right, " of ", seeds, " right");
  });

  test_case("an overwritten staging buffer shows: pinned memory is read when the copy runs", [] {
    fresh();
    int *x = ints(n), *host = pinned(n, 1);
    const cudaStream_t s = stream();
    MUST(cudaMemcpyAsync(x, host, n * sizeof(int), cudaMemcpyHostToDevice, s));
    for (int i = 0; i < n; ++i) host[i] = 2;
    EXPECT(values(x, n)[0] == 2, "came ", values(x, n)[0]);
  });

  test_case("pageable memory is staged when the copy is called", [] {
    fresh();
    int* x = ints(n);
    std::vector<int> host(n, 1);
    const cudaStream_t s = stream();
    MUST(cudaMemcpyAsync(x, host.data(), n * sizeof(int), cudaMemcpyHostToDevice, s));
    host.assign(n, 2);
    EXPECT(ptxemu_pending() == 1, "expected 1 queued, came ", ptxemu_pending());
    EXPECT(values(x, n)[0] == 1, "came ", values(x, n)[0]);
  });

  test_case("a copy to pageable memory is done when the call returns, one to pinned memory is not", [] {
    fresh();
    int *x = ints(n), *later = pinned(n, 0);
    std::vector<int> now(n, 0);
    const cudaStream_t s = stream();
    set_all<<<1, n, 0, s>>>(x, n, 9);
    MUST(cudaMemcpyAsync(later, x, n * sizeof(int), cudaMemcpyDeviceToHost, s));
    EXPECT(later[0] == 0, "came ", later[0]);
    MUST(cudaMemcpyAsync(now.data(), x, n * sizeof(int), cudaMemcpyDeviceToHost, s));
    EXPECT(now[0] == 9 && later[0] == 9, "came ", now[0], " and ", later[0]);
  });

  test_case("the default stream waits for blocking streams, and they for it", [] {
    const int right = how_often(123, [](int) { return around_default(cudaStreamDefault); });
    EXPECT(right == seeds, right, " of ", seeds, " right");
  });

  test_case("non-blocking streams and the default stream do not wait for each other", [] {
    int late = 0, early = 0;  // the default stream's 2 after both of the other's, before both
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      const int result = around_default(cudaStreamNonBlocking);
      late += result == 132;
      early += result == 213;
    }
    EXPECT(late > 0 && early > 0, "late in ", late, ", early in ", early, " of ", seeds);
  });

  test_case("who waits for the default stream waits for the blocking streams too", [] {
    fresh();
    int* x = ints(n);
    set_all<<<1, n, 0, stream(cudaStreamNonBlocking)>>>(x, n, 1);
    MUST(cudaStreamSynchronize(nullptr));
    EXPECT(ptxemu_pending() == 1, "expected the non-blocking stream's one, came ", ptxemu_pending());
    set_all<<<1, n, 0, stream(cudaStreamDefault)>>>(x, n, 1);
    MUST(cudaStreamSynchronize(nullptr));
    EXPECT(ptxemu_pending() <= 1, "came ", ptxemu_pending());
  });

  test_case("cudaMemcpy waits for blocking streams", [] {
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      int *x = ints(n), host = 0;
      set_all<<<1, n, 0, stream(cudaStreamDefault)>>>(x, n, 4);
      MUST(cudaMemcpy(&host, x, sizeof host, cudaMemcpyDeviceToHost));
      EXPECT(host == 4, "seed ", seed, ": came ", host);
    }
  });

  test_case("an event that was recorded anew is waited for as it was at the call", [] {
    for (int seed = 1; seed <= seeds; ++seed) {
      fresh(75, seed);
      int* x = ints(n);
      const cudaStream_t a = stream(), b = stream();
      const cudaEvent_t e = event();
      set_all<<<1, n, 0, a>>>(x, n, 1);
      MUST(cudaEventRecord(e, a));
      MUST(cudaStreamWaitEvent(b, e));
      add_all<<<1, n, 0, b>>>(x, n, 1);
      MUST(cudaEventRecord(e, b));
      MUST(cudaEventSynchronize(e));
      EXPECT(ptxemu_pending() == 0, "seed ", seed);
      EXPECT(values(x, n)[0] == 2, "seed ", seed, ": came ", values(x, n)[0]);
    }
  });

  test_case("each thread has its own default stream, which is a blocking one", [] {
    fresh();
    int* y = ints(1);
    MUST(cudaMemset(y, 0, sizeof(int)));
    append_digit<<<1, 1, 0, cudaStreamPerThread>>>(y, 1);
    append_digit<<<1, 1, 0, cudaStreamLegacy>>>(y, 2);
    append_digit<<<1, 1, 0, cudaStreamPerThread>>>(y, 3);
    MUST(cudaStreamSynchronize(cudaStreamPerThread));
    EXPECT(ptxemu_pending() == 0, "came ", ptxemu_pending());
    EXPECT(values(y, 1)[0] == 123, "came ", values(y, 1)[0]);
    FAILS(cudaStreamDestroy(cudaStreamPerThread), cudaErrorInvalidResourceHandle);
  });

  test_case("launches by configuration, streams with priority", [] {
    fresh();
    int *x = ints(n), least = -1, greatest = 1;
    MUST(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    cudaLaunchConfig_t config = {};
    MUST(cudaStreamCreateWithPriority(&config.stream, cudaStreamNonBlocking, greatest));
    config.gridDim = dim3(1);
    config.blockDim = dim3(n);
    MUST(cudaLaunchKernelEx(&config, set_all, x, n, 6));
    EXPECT(values(x, n)[n - 1] == 6, "came ", values(x, n)[n - 1]);
    cudaLaunchAttribute attribute = {};
    config.attrs = &attribute;
    config.numAttrs = 1;
    FAILS(cudaLaunchKernelEx(&config, set_all, x, n, 6), cudaErrorNotSupported);
  });

  test_case("queries make progress", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    const cudaEvent_t e = event();
    MUST(cudaEventQuery(e));
    set_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaEventRecord(e, s));
    int queries = 0;
    while (cudaEventQuery(e) == cudaErrorNotReady) EXPECT(++queries < 1000, "no progress");
    MUST(cudaEventQuery(e));
    MUST(cudaStreamQuery(s));
  });

  test_case("events measure time, and refuse to where they cannot", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream();
    const cudaEvent_t from = event(cudaEventDefault), to = event(cudaEventDefault), untimed = event();
    float ms = -1;
    FAILS(cudaEventElapsedTime(&ms, from, to), cudaErrorInvalidResourceHandle);
    MUST(cudaEventRecord(from, s));
    set_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaEventRecord(to, s));
    MUST(cudaEventRecord(untimed, s));
    FAILS(cudaEventElapsedTime(&ms, from, to), cudaErrorNotReady);
    MUST(cudaStreamSynchronize(s));
    MUST(cudaEventElapsedTime(&ms, from, to));
    EXPECT(ms > 0, "came ", ms);
    FAILS(cudaEventElapsedTime(&ms, from, untimed), cudaErrorInvalidResourceHandle);
  });

  test_case("a destroyed stream's work still runs, its handle is refused", [] {
    fresh();
    int* x = ints(n);
    const cudaStream_t s = stream(cudaStreamDefault);
    set_all<<<1, n, 0, s>>>(x, n, 3);
    MUST(cudaStreamDestroy(s));
    FAILS(cudaStreamSynchronize(s), cudaErrorInvalidResourceHandle);
    int host = 0;
    MUST(cudaMemcpy(&host, x, sizeof host, cudaMemcpyDeviceToHost));
    EXPECT(host == 3, "came ", host);
  });

  test_case("host functions run in order and may not call CUDA", [] {
    fresh();
    const cudaStream_t s = stream();
    static cudaError_t inside;
    inside = cudaSuccess;
    MUST(cudaLaunchHostFunc(s, [](void*) { inside = cudaDeviceSynchronize(); }, nullptr));
    MUST(cudaStreamSynchronize(s));
    FAILS(inside, cudaErrorNotPermitted);
  });
}

}  // namespace ptxemu::test
