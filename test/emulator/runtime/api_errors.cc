// cudaGetLastError and what an error means. The text of an error that this emulator found is its whole report.
#include <set>

#include "runtime/runtime.h"

using namespace ptxemu;

namespace {

// Texts stay valid for ever, as cudaGetErrorString promises.
const char* keep(const std::string& text) {
  static auto* const kept = new std::set<std::string>;
  return kept->insert(text).first->c_str();
}

cudaError_t last_error(bool clear) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (r.sticky) return r.sticky;
  const cudaError_t code = thread_error().last;
  if (clear) thread_error().last = cudaSuccess;
  return code;
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return last_error(true); }
cudaError_t cudaPeekAtLastError() { return last_error(false); }

const char* cudaGetErrorName(cudaError_t error) { return error_name(error); }

const char* cudaGetErrorString(cudaError_t error) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  if (error == cudaSuccess) return error_text(error);
  if (error == thread_error().reported) return keep(thread_error().report);
  if (error == r.last_code) return keep(r.last_report);
  return error_text(error);
}
}
