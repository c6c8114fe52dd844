// What the GPU says of itself and of kernels; what it refuses to launch; settings from the environment.
#include "tests/runtime_gpu.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>

namespace ptxemu::test {
namespace {

__global__ void __launch_bounds__(128) small(int* x) { x[threadIdx.x] = 1; }

__global__ void shared_kernel(int* x, int count) {
  extern __shared__ int dynamic[];
  __shared__ int fixed[256];
  fixed[threadIdx.x] = count;
  dynamic[count - 1 - threadIdx.x] = threadIdx.x;
  __syncthreads();
  x[threadIdx.x] = dynamic[count - 1] + fixed[0];
}

// What `runtime_tests arguments` prints under these settings.
std::string in_another_process(const std::string& settings, const std::string& arguments) {
  char self[4096] = {};
  EXPECT(readlink("/proc/self/exe", self, sizeof self - 1) > 0, "no /proc/self/exe");
  std::FILE* pipe = popen((settings + " '" + self + "' " + arguments).c_str(), "r");
  EXPECT(pipe, "no process");
  std::string out;
  for (int c; (c = std::fgetc(pipe)) != EOF;) out += char(c);
  pclose(pipe);
  return out;
}

// What another process, which runs kernels, writes into the file that is named at the end of its settings.
std::string file_of_another_process(const std::string& settings) {
  char name[] = "/tmp/ptxemu-XXXXXX";
  const int file = mkstemp(name);
  EXPECT(file >= 0, "no temporary file");
  close(file);
  in_another_process(settings + name, "'one stream keeps its order'");
  std::ifstream in(name);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::remove(name);
  return text;
}

}  // namespace

SUITE(runtime_gpu) {
  test_case("properties and attributes are those of the gpu", [] {
    struct Row { int gpu, shared_opt_in_kb, threads; };
    for (const Row& row : {Row{75, 64, 1024}, Row{80, 163, 2048}, Row{86, 99, 1536}, Row{89, 99, 1536}, Row{90, 227, 2048}}) {
      fresh(row.gpu, 1, "512M");
      cudaDeviceProp p;
      MUST(cudaGetDeviceProperties(&p, 0));
      EXPECT(p.major * 10 + p.minor == row.gpu && p.warpSize == 32, "came ", p.major, ".", p.minor);
      EXPECT(p.totalGlobalMem == size_t(512) << 20, "came ", p.totalGlobalMem);
      EXPECT(int(p.sharedMemPerBlockOptin) == row.shared_opt_in_kb << 10, "gpu ", row.gpu, " came ", p.sharedMemPerBlockOptin);
      EXPECT(p.maxThreadsPerMultiProcessor == row.threads, "gpu ", row.gpu, " came ", p.maxThreadsPerMultiProcessor);
      int value = 0;
      MUST(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
      EXPECT(value == row.shared_opt_in_kb << 10, "came ", value);
      MUST(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMinor, 0));
      EXPECT(value == row.gpu % 10, "came ", value);
    }
    int value = 0;
    FAILS(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSurface3DWidth, 0), cudaErrorInvalidValue);
    FAILS(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 1), cudaErrorInvalidDevice);
    MUST(cudaRuntimeGetVersion(&value));
    EXPECT(value == CUDART_VERSION, "came ", value);
  });

  test_case("a machine without a gpu says so", [] {
    fresh();
    int count = -1, *x = nullptr;
    EXPECT(ptxemu_set_option("devices", "0") == 0, ptxemu_last_report());
    FAILS(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    EXPECT(count == 0, "came ", count);
    FAILS(cudaMalloc(&x, 4), cudaErrorNoDevice);
    fresh();
    MUST(cudaGetDeviceCount(&count));
    EXPECT(count == 1, "came ", count);
  });

  test_case("attributes of a kernel: launch bounds, shared memory, registers of the machine code", [] {
    fresh();
    cudaFuncAttributes a;
    MUST(cudaFuncGetAttributes(&a, small));
    EXPECT(a.maxThreadsPerBlock == 128 && a.ptxVersion == 75, "came ", a.maxThreadsPerBlock, " and ", a.ptxVersion);
    EXPECT(a.numRegs >= 4 && a.numRegs <= 32, "came ", a.numRegs);
    MUST(cudaFuncGetAttributes(&a, shared_kernel));
    EXPECT(a.sharedSizeBytes == 1024 && a.maxDynamicSharedSizeBytes == (48 << 10) - 1024, "came ", a.sharedSizeBytes, " and ",
           a.maxDynamicSharedSizeBytes);
  });

  test_case("blocks and grids beyond the gpu's limits are refused, and nothing is sticky", [] {
    fresh();
    int* x = ints(2048);
    set_all<<<1, 2048>>>(x, 2048, 1);
    FAILS(cudaGetLastError(), cudaErrorInvalidConfiguration);
    set_all<<<0, 32>>>(x, 32, 1);
    FAILS(cudaGetLastError(), cudaErrorInvalidConfiguration);
    set_all<<<dim3(1, 65536), 32>>>(x, 32, 1);
    FAILS(cudaGetLastError(), cudaErrorInvalidConfiguration);
    small<<<1, 256>>>(x);
    FAILS(cudaGetLastError(), cudaErrorInvalidValue);
    MUST(cudaDeviceSynchronize());
  });

  test_case("shared memory above 48 KB is opted in, above the gpu's limit refused", [] {
    for (const auto& [gpu, limit] : {std::pair{75, 64 << 10}, {80, 163 << 10}}) {
      fresh(gpu);
      int* x = ints(256);
      const int fixed = 1024, normal = (48 << 10) - fixed, most = limit - fixed;
      shared_kernel<<<1, 256, normal>>>(x, normal / 4);
      MUST(cudaGetLastError());
      shared_kernel<<<1, 256, normal + 4>>>(x, normal / 4 + 1);
      FAILS(cudaGetLastError(), cudaErrorInvalidValue);
      FAILS(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most + 4), cudaErrorInvalidValue);
      FAILS(cudaGetLastError(), cudaErrorInvalidValue);
      MUST(cudaFuncSetAttribute(shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
      shared_kernel<<<1, 256, most>>>(x, most / 4);
      MUST(cudaGetLastError());
      EXPECT(values(x, 1)[0] == most / 4, "came ", values(x, 1)[0]);
      shared_kernel<<<1, 256, most + 4>>>(x, most / 4);
      FAILS(cudaGetLastError(), cudaErrorInvalidValue);
    }
  });

  test_case("occupancy on compute capability 7.5", [] {
    fresh();
    int blocks = 0;
    MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, small, 128, 0));
    EXPECT(blocks == 8, "1024 threads in blocks of 128: came ", blocks);
    MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, shared_kernel, 256, 15 << 10));
    EXPECT(blocks == 4, "64 KB in blocks of 16 KB: came ", blocks);
    MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&blocks, shared_kernel, 256, 31 << 10, cudaOccupancyDefault));
    EXPECT(blocks == 2, "64 KB in blocks of 32 KB: came ", blocks);
    MUST(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, small, 32, 0));
    EXPECT(blocks == 16, "at most 16 blocks: came ", blocks);
    fresh(80);
    FAILS(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, small, 128, 0), cudaErrorNotSupported);
  });

  test_case("counters count launches", [] {
    fresh();
    ptxemu_reset_counters();
    int* x = ints(64);
    for (int i = 0; i < 3; ++i) set_all<<<2, 32>>>(x, 64, i);
    MUST(cudaDeviceSynchronize());
    const std::string json = ptxemu_counters_json();
    EXPECT(json.find("set_all") != std::string::npos, json);
    ptxemu_reset_counters();
    EXPECT(std::string(ptxemu_counters_json()).find("set_all") == std::string::npos, ptxemu_counters_json());
  });

  test_case("the environment sets the machine up; a bad value is the error of the first call", [] {
    EXPECT(in_another_process("PTXEMU_DEVICES=0", "--report").rfind("0 cudaErrorNoDevice", 0) == 0,
           in_another_process("PTXEMU_DEVICES=0", "--report"));
    EXPECT(in_another_process("PTXEMU_GPU=80", "--report").rfind("1 cudaSuccess", 0) == 0, in_another_process("PTXEMU_GPU=80", "--report"));
    EXPECT(in_another_process("PTXEMU_MULTIPROCESSORS=0", "--report").find("a number from 1 to 1000") != std::string::npos,
           "0 is no number of them");
    const std::string bad = in_another_process("PTXEMU_ORDER=sideways", "--report");
    EXPECT(bad.find("cudaErrorInitializationError") != std::string::npos, bad);
    EXPECT(bad.find("forward, backward or random") != std::string::npos, bad);
  });

  test_case("the counters' file is written at the end", [] {
    const std::string json = file_of_another_process("PTXEMU_COUNTERS=");
    EXPECT(json.find("append_digit") != std::string::npos, "came: ", json);
  });

  test_case("launches and copies to the host are listed as they run", [] {
    const std::string lines = file_of_another_process("PTXEMU_SAMPLE=2 PTXEMU_LAUNCHES=");
    const size_t kernel = lines.find("append_digit"), copy = lines.find("{\"copied_to_host\": 4}");
    EXPECT(lines.rfind("{\"kernel\": \"", 0) == 0 && kernel < copy && copy != std::string::npos, "came: ", lines);
    EXPECT(lines.find("\"grid\": [1, 1, 1], \"block\": [1, 1, 1], \"dynamic_shared\": 0, \"ptx_instructions\": ") < copy, "came: ", lines);
  });

  test_case("a sample of the blocks and checks exclude each other", [] {
    const std::string alone = in_another_process("PTXEMU_SAMPLE=4", "--report");
    EXPECT(alone.rfind("1 cudaSuccess", 0) == 0, alone);
    const std::string both = in_another_process("PTXEMU_SAMPLE=4 PTXEMU_CHECKS=races", "--report");
    EXPECT(both.find("cudaErrorInitializationError") != std::string::npos && both.find("not both") != std::string::npos, both);
  });
}

}  // namespace ptxemu::test
