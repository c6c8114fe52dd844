#include "runtime/queue.h"

namespace ptxemu {

std::function<void()> with_injection(Runtime& r, std::function<void()> work) {
  if (!r.due(&Settings::fail_launch)) return work;
  return [] { throw Error(ErrorKind::trap, "this launch was asked to fail (PTXEMU_FAIL_LAUNCH)"); };
}

void enqueue(Runtime& r, Stream& stream, cudaGraphNodeType type, std::function<void()> work) {
  if (stream.capture) return r.graphs.add(stream, type, std::move(work));
  if (r.streams.is_legacy(stream)) r.graphs.refuse_legacy();
  if (type == cudaGraphNodeTypeKernel) work = with_injection(r, std::move(work));
  r.streams.submit(stream, std::move(work));
}

}  // namespace ptxemu
