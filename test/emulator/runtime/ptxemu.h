// What a test process may ask of the emulated GPU beyond the CUDA API; found with dlsym, or linked.
// Strings that come back stay valid until the same thread asks for the same thing again.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Sets what the environment variable PTXEMU_<NAME> sets when the library is loaded (options.h lists them); name in any case.
// 0 = done, 1 = unknown name or bad value, said by ptxemu_last_report(). GPU, multiprocessors, memory and devices also reset the GPU.
int ptxemu_set_option(const char* name, const char* value);

// The n-th allocation from now (cudaMalloc, cudaMallocHost, cudaHostAlloc, cudaHostRegister) fails with cudaErrorMemoryAllocation.
// 0 = none.
void ptxemu_fail_allocation(long n);
// The n-th kernel execution that is queued from now, each kernel of a launched graph included, fails with cudaErrorLaunchFailure.
void ptxemu_fail_launch(long n);

// The counters of every kernel that has run, as JSON; work that is still queued has not run.
const char* ptxemu_counters_json(void);
void ptxemu_reset_counters(void);

// Names of the kernels that were launched since the last call of this, one a line, also of those that PTXEMU_EXECUTE=0 kept from running.
const char* ptxemu_launched(void);
// Names of the kernels of the program that have instructions and have not run, one a line; "" = all have run.
const char* ptxemu_idle(void);

// One line for each allocation, stream, event and graph that lives; "" = none.
const char* ptxemu_leaks(void);
// The text of the last error that a call returned on any thread, with kernel, thread and source line where they are known; "" = none.
const char* ptxemu_last_report(void);
// Kernels, copies, fills and host functions that are queued and have not run.
long ptxemu_pending(void);

// A new GPU: sticky error, memory, streams, events and graphs are gone; options and failure injection stay.
void ptxemu_reset(void);

#ifdef __cplusplus
}
#endif
