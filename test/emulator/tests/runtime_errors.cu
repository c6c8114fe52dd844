// What a kernel does wrong becomes the error that a GPU gives, with a report; and what fails because it was asked to.
#include "tests/runtime_gpu.h"

#include <cstring>
#include <thread>

namespace ptxemu::test {
namespace {

constexpr int n = 64;

__global__ void overrun(int* x, int past) { x[past + threadIdx.x] = 1; }
__global__ void misaligned(char* x) { *reinterpret_cast<int*>(x + 1) = 1; }
__global__ void race(int* x) {
  __shared__ int cell[2 * n];
  cell[threadIdx.x] = threadIdx.x;
  x[threadIdx.x] = cell[blockDim.x - 1 - threadIdx.x];  // no barrier
}
__global__ void copy_all(int* y, const int* x) { y[threadIdx.x] = x[threadIdx.x]; }
__global__ void trap() { asm volatile("trap;"); }

void report_has(const char* part) {
  const std::string report = ptxemu_last_report();
  EXPECT(report.find(part) != std::string::npos, "no \"", part, "\" in: ", report);
}

}  // namespace

SUITE(runtime_errors) {
  test_case("an overrun is cudaErrorIllegalAddress, and every later call says so", [] {
    fresh();
    int* x = ints(n);
    overrun<<<1, n>>>(x, 1);
    MUST(cudaGetLastError());
    FAILS(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    const std::string text = cudaGetErrorString(cudaErrorIllegalAddress);
    EXPECT(text.find("overrun") != std::string::npos && text.find("runtime_errors.cu") != std::string::npos, "report: ", text);
    int* y = nullptr;
    FAILS(cudaGetLastError(), cudaErrorIllegalAddress);
    FAILS(cudaGetLastError(), cudaErrorIllegalAddress);
    FAILS(cudaMalloc(&y, 4), cudaErrorIllegalAddress);
    FAILS(cudaFree(x), cudaErrorIllegalAddress);
    FAILS(cudaDeviceReset(), cudaErrorIllegalAddress);
    ptxemu_reset();
    MUST(cudaMalloc(&y, 4));
    EXPECT(!std::strcmp(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered"),
           cudaGetErrorString(cudaErrorIllegalAddress));
  });

  test_case("a wrong alignment, a race, a trap and unwritten memory have their codes and reports", [] {
    fresh();
    misaligned<<<1, 1>>>(reinterpret_cast<char*>(ints(n)));
    FAILS(cudaDeviceSynchronize(), cudaErrorMisalignedAddress);
    fresh();
    race<<<1, 2 * n>>>(ints(2 * n));
    FAILS(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    report_has("race");
    fresh();
    trap<<<1, 1>>>();
    FAILS(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    fresh();
    copy_all<<<1, n>>>(ints(n), ints(n));
    FAILS(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    report_has("copy_all");
    fresh();
  });

  test_case("checks can be switched off", [] {
    fresh();
    EXPECT(ptxemu_set_option("checks", "none") == 0, ptxemu_last_report());
    copy_all<<<1, n>>>(ints(n), ints(n));
    const cudaError_t error = cudaDeviceSynchronize();
    ptxemu_set_option("checks", "all");
    MUST(error);
  });

  test_case("an error is another thread's last error only if it is sticky", [] {
    fresh();
    cudaError_t seen = cudaErrorUnknown;
    FAILS(cudaSetDevice(1), cudaErrorInvalidDevice);
    std::thread([&] { seen = cudaGetLastError(); }).join();
    MUST(seen);
    FAILS(cudaPeekAtLastError(), cudaErrorInvalidDevice);
    FAILS(cudaGetLastError(), cudaErrorInvalidDevice);
    MUST(cudaGetLastError());
    trap<<<1, 1>>>();
    FAILS(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    std::thread([&] { seen = cudaGetLastError(); }).join();
    FAILS(seen, cudaErrorLaunchFailure);
    fresh();
  });

  test_case("the n-th allocation fails, pinned ones count too", [] {
    fresh();
    void *a = nullptr, *b = nullptr, *c = nullptr;
    ptxemu_fail_allocation(3);
    MUST(cudaMalloc(&a, 4));
    MUST(cudaMallocHost(&b, 4));
    FAILS(cudaMalloc(&c, 4), cudaErrorMemoryAllocation);
    FAILS(cudaGetLastError(), cudaErrorMemoryAllocation);
    MUST(cudaMalloc(&c, 4));
  });

  test_case("the n-th launch fails, graphs' kernels count too", [] {
    fresh();
    int* x = ints(n);
    cudaStream_t s = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    MUST(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal));
    set_all<<<1, n, 0, s>>>(x, n, 1);
    add_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaStreamEndCapture(s, &graph));
    MUST(cudaGraphInstantiate(&exec, graph, 0));
    ptxemu_fail_launch(4);
    set_all<<<1, n, 0, s>>>(x, n, 1);
    MUST(cudaGraphLaunch(exec, s));
    MUST(cudaStreamSynchronize(s));
    MUST(cudaGraphLaunch(exec, s));
    FAILS(cudaStreamSynchronize(s), cudaErrorLaunchFailure);
    report_has("asked to fail");
    fresh();
  });

  test_case("unknown options and bad values are refused with what was expected", [] {
    fresh();
    EXPECT(ptxemu_set_option("colour", "red") == 1, "accepted");
    report_has("GPU");
    EXPECT(ptxemu_set_option("order", "sideways") == 1, "accepted");
    report_has("forward, backward or random");
    EXPECT(ptxemu_set_option("gpu", "42") == 1, "accepted");
    EXPECT(ptxemu_set_option("memory", "12Q") == 1, "accepted");
    EXPECT(ptxemu_set_option("jitter", "1") == 0 && ptxemu_set_option("jitter", "0") == 0, ptxemu_last_report());
  });
}

}  // namespace ptxemu::test
