// Memory: limits, what copies refuse, leaks.
#include "tests/runtime_gpu.h"

namespace ptxemu::test {
namespace {

constexpr int n = 64;

size_t free_bytes() {
  size_t free = 0, total = 0;
  MUST(cudaMemGetInfo(&free, &total));
  return free;
}

__global__ void read_host(int* y, const int* x) { y[threadIdx.x] = x[threadIdx.x]; }

__constant__ int table[4] = {10, 20, 30, 40};
__device__ int total = 5;
__global__ void look_up(int* y) { y[threadIdx.x] = table[threadIdx.x] + total; }

}  // namespace

SUITE(runtime_memory) {
  test_case("memory beyond the gpu's is refused, and comes back when freed", [] {
    fresh(75, 1, "1M");
    void *a = nullptr, *b = nullptr;
    EXPECT(free_bytes() == 1 << 20, "came ", free_bytes());
    MUST(cudaMalloc(&a, 700 << 10));
    EXPECT(free_bytes() <= 324 << 10, "came ", free_bytes());
    FAILS(cudaMalloc(&b, 400 << 10), cudaErrorMemoryAllocation);
    EXPECT(!b, "an address came back");
    FAILS(cudaGetLastError(), cudaErrorMemoryAllocation);
    MUST(cudaFree(a));
    MUST(cudaMalloc(&b, 1 << 20));
    MUST(cudaFree(b));
    MUST(cudaMalloc(&a, 0));
    EXPECT(!a, "no bytes have an address");
    MUST(cudaFree(nullptr));
  });

  test_case("a second free is refused, and one in the middle", [] {
    fresh();
    int *x = ints(n), *host = pinned(n, 0);
    FAILS(cudaFree(x + 1), cudaErrorInvalidValue);
    MUST(cudaFree(x));
    FAILS(cudaFree(x), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(host, x, 4, cudaMemcpyDefault), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(x, x, 4, cudaMemcpyHostToHost), cudaErrorInvalidValue);
    FAILS(cudaMemset(x, 0, 4), cudaErrorInvalidValue);
    MUST(cudaFreeHost(host));
    FAILS(cudaFreeHost(host), cudaErrorInvalidValue);
  });

  test_case("cudaFree waits for the gpu", [] {
    fresh();
    int *x = ints(n), *y = ints(n);
    set_all<<<1, n>>>(x, n, 1);
    MUST(cudaGetLastError());
    MUST(cudaFree(y));
    EXPECT(ptxemu_pending() == 0, "came ", ptxemu_pending());
    set_all<<<1, n>>>(y, n, 1);
    FAILS(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    fresh();
  });

  test_case("copies refuse what leaves an allocation and what contradicts their kind", [] {
    fresh();
    int* x = ints(n);
    std::vector<int> host(2 * n);
    const size_t bytes = n * sizeof(int);
    FAILS(cudaMemcpy(x, host.data(), bytes + 1, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(host.data(), x + 1, bytes, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(host.data(), x, bytes, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(x, host.data(), bytes, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    FAILS(cudaMemcpy(x, host.data(), bytes, cudaMemcpyKind(7)), cudaErrorInvalidMemcpyDirection);
    FAILS(cudaMemset(host.data(), 0, bytes), cudaErrorInvalidValue);
    FAILS(cudaMemset(x, 0, bytes + 4), cudaErrorInvalidValue);
    int* small = pinned(n, 0);
    FAILS(cudaMemcpyAsync(x, small + 1, bytes, cudaMemcpyHostToDevice, nullptr), cudaErrorInvalidValue);
    MUST(cudaMemcpy(x, host.data(), bytes, cudaMemcpyDefault));
    MUST(cudaMemcpy(host.data(), x, bytes, cudaMemcpyDefault));
  });

  test_case("pinned memory is the gpu's only if it was mapped", [] {
    fresh();
    int *mapped = nullptr, *plain = pinned(n, 3), *y = ints(n), *on_gpu = nullptr;
    MUST(cudaHostAlloc(&mapped, n * sizeof(int), cudaHostAllocMapped));
    for (int i = 0; i < n; ++i) mapped[i] = i;
    MUST(cudaHostGetDevicePointer(&on_gpu, mapped, 0));
    read_host<<<1, n>>>(y, on_gpu);
    EXPECT(values(y, n)[7] == 7, "came ", values(y, n)[7]);
    FAILS(cudaHostGetDevicePointer(&on_gpu, plain, 0), cudaErrorInvalidValue);
    read_host<<<1, n>>>(y, plain);
    FAILS(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    fresh();
  });

  test_case("memory is registered once and unregistered once", [] {
    fresh();
    std::vector<int> host(n, 1);
    int* x = ints(n);
    MUST(cudaHostRegister(host.data(), n * sizeof(int), cudaHostRegisterDefault));
    FAILS(cudaHostRegister(host.data() + 1, 4, cudaHostRegisterDefault), cudaErrorHostMemoryAlreadyRegistered);
    MUST(cudaMemcpyAsync(x, host.data(), n * sizeof(int), cudaMemcpyHostToDevice, nullptr));
    host[0] = 2;
    EXPECT(values(x, n)[0] == 2, "came ", values(x, n)[0]);
    MUST(cudaHostUnregister(host.data()));
    FAILS(cudaHostUnregister(host.data()), cudaErrorHostMemoryNotRegistered);
  });

  test_case("pointers say what they are", [] {
    fresh();
    int *x = ints(n), *host = pinned(n, 0), local = 0;
    cudaPointerAttributes a;
    MUST(cudaPointerGetAttributes(&a, x + 3));
    EXPECT(a.type == cudaMemoryTypeDevice, "came ", int(a.type));
    MUST(cudaPointerGetAttributes(&a, host));
    EXPECT(a.type == cudaMemoryTypeHost, "came ", int(a.type));
    MUST(cudaPointerGetAttributes(&a, &local));
    EXPECT(a.type == cudaMemoryTypeUnregistered, "came ", int(a.type));
  });

  test_case("device variables and constants hold their values, and take new ones", [] {
    fresh();
    int *y = ints(4), seven = 7, back = 0;
    look_up<<<1, 4>>>(y);
    EXPECT(values(y, 4)[3] == 45, "came ", values(y, 4)[3]);
    MUST(cudaMemcpyToSymbol(total, &seven, sizeof seven));
    MUST(cudaMemcpyFromSymbol(&back, total, sizeof back));
    EXPECT(back == 7, "came ", back);
    look_up<<<1, 4>>>(y);
    EXPECT(values(y, 4)[0] == 17, "came ", values(y, 4)[0]);
    EXPECT(std::string(ptxemu_leaks()).find("allocation 2") == std::string::npos, "variables are no leaks: ", ptxemu_leaks());
  });

  test_case("what is not given back is reported", [] {
    fresh();
    EXPECT(!*ptxemu_leaks(), ptxemu_leaks());
    void *a = nullptr, *b = nullptr;
    cudaStream_t s = nullptr;
    cudaEvent_t e = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    MUST(cudaMalloc(&a, 1000));
    MUST(cudaMallocHost(&b, 2000));
    MUST(cudaStreamCreate(&s));
    MUST(cudaEventCreate(&e));
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    MUST(cudaStreamEndCapture(s, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    const std::string report = ptxemu_leaks();
    for (const char* part : {"device memory: 1000 bytes, allocation 1\n", "pinned host memory: 2000 bytes, allocation 2\n", "stream ",
                             "event ", "graph ", "executable graph "})
      EXPECT(report.find(part) != std::string::npos, "no ", part, " in: ", report);
    MUST(cudaGraphExecDestroy(exec));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaEventDestroy(e));
    MUST(cudaStreamDestroy(s));
    MUST(cudaFreeHost(b));
    MUST(cudaFree(a));
    EXPECT(!*ptxemu_leaks(), ptxemu_leaks());
  });

  test_case("a reset of the device gives everything back", [] {
    fresh();
    ints(n);
    pinned(n, 0);
    MUST(cudaDeviceReset());
    EXPECT(!*ptxemu_leaks(), ptxemu_leaks());
    set_all<<<1, n>>>(ints(n), n, 1);
    MUST(cudaDeviceSynchronize());
  });
}

}  // namespace ptxemu::test
