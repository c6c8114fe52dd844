// Where work goes that a call gives to a stream: into the capture of the stream, or into its queue.
#pragma once
#include "runtime/runtime.h"

namespace ptxemu {

void enqueue(Runtime& r, Stream& stream, cudaGraphNodeType type, std::function<void()> work);

// The kernel's work, or the failure that was asked for (PTXEMU_FAIL_LAUNCH).
std::function<void()> with_injection(Runtime& r, std::function<void()> work);

}  // namespace ptxemu
