// The state behind the CUDA API: one GPU, its memory, streams, graphs and code, and what went wrong. One lock for all of it.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <string>

#include "runtime/failure.h"
#include "runtime/graph.h"
#include "runtime/modules.h"
#include "runtime/options.h"
#include "runtime/scheduler.h"
#include "runtime/stream.h"

namespace ptxemu {

struct Allocation {
  size_t bytes = 0;
  uint64_t number = 0;  // in order of allocation
  bool owned = true;    // pinned memory: by cudaMallocHost, else registered
};

struct Runtime {
  Runtime();

  std::recursive_mutex mutex;
  Settings settings;
  Gpu gpu;
  std::unique_ptr<Memory> memory;
  Counters counters;
  Scheduler scheduler;
  Streams streams{scheduler};
  Graphs graphs{scheduler, streams};
  Modules modules;
  std::map<uint64_t, Allocation> device_allocations;
  std::map<void*, Allocation> pinned_allocations;
  uint64_t allocation_numbers = 0;
  bool in_host_function = false;
  std::set<std::string> launched;  // kernels, since ptxemu_launched was last asked

  cudaError_t sticky = cudaSuccess;  // the GPU's context is broken: every call returns it
  std::string sticky_report;
  cudaError_t last_code = cudaSuccess;  // of any thread
  std::string last_report;
  std::FILE* launches = nullptr;
  std::string start_problem;  // a bad environment variable: every call says so

  void reset();                          // a new GPU
  bool due(long Settings::* countdown);  // failure injection: true at the n-th call
  void must_have_gpu() const;
  Function& function(const void* host) { return modules.resolve(host, *memory, gpu); }

  // Where a call of the API ends: remembers the error for cudaGetLastError and the report.
  cudaError_t fail(cudaError_t code, const std::string& report);
  cudaError_t fail_sticky(const Error& error);
  std::string leaks() const;
  void trace(const std::string& line);  // into the file of PTXEMU_LAUNCHES, if there is one
};

Runtime& runtime();

struct ThreadError {
  cudaError_t last = cudaSuccess;      // cudaGetLastError clears it
  cudaError_t reported = cudaSuccess;  // what `report` is about
  std::string report;
};
ThreadError& thread_error();

// The body of an API function: under the lock, refused after a sticky error, exceptions made into codes.
template <class Body> cudaError_t call(Body body) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  try {
    if (!r.start_problem.empty()) throw Failure(cudaErrorInitializationError, r.start_problem);
    r.must_have_gpu();
    if (r.sticky) return r.fail(r.sticky, r.sticky_report);
    require(!r.in_host_function, cudaErrorNotPermitted, "a host function in a stream may not call the CUDA API");
    body(r);
    return cudaSuccess;
  } catch (const Failure& failure) { return r.fail(failure.code, failure.text); } catch (const Error& error) {
    return r.fail_sticky(error);
  } catch (const std::bad_alloc&) {
    return r.fail(cudaErrorMemoryAllocation, "the host is out of memory");
  } catch (const std::exception& e) { return r.fail(cudaErrorUnknown, e.what()); }
}

}  // namespace ptxemu
