#include "runtime/runtime.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace ptxemu {

// Never destroyed: the program's own destructors and nvcc's unregistering may come later.
Runtime& runtime() {
  static Runtime* const only = new Runtime;
  return *only;
}

// Not destroyed with its thread either: destructors of the main thread's statics still call the API.
ThreadError& thread_error() {
  thread_local ThreadError* const error = new ThreadError;
  return *error;
}

Runtime::Runtime() {
  start_problem = settings.read_environment();
  try {
    reset();
  } catch (const std::exception& e) { start_problem = e.what(); }
}

void Runtime::reset() {
  scheduler.drop_all();
  scheduler.seed(settings.options.seed);
  graphs.clear();
  streams.clear();
  modules.forget();
  for (const auto& [address, allocation] : pinned_allocations)
    if (allocation.owned) std::free(address);
  pinned_allocations.clear();
  device_allocations.clear();
  allocation_numbers = 0;
  memory.reset();
  gpu = ptxemu::gpu(settings.compute_capability);
  if (settings.memory_bytes) gpu.memory_bytes = settings.memory_bytes;
  if (settings.multiprocessors) gpu.multiprocessors = settings.multiprocessors;
  memory = std::make_unique<Memory>(gpu.memory_bytes, settings.options.sample == 1);  // of a sample nothing is checked
  sticky = cudaSuccess;
  sticky_report.clear();
  thread_error() = {};
}

bool Runtime::due(long Settings::* countdown) { return settings.*countdown > 0 && --(settings.*countdown) == 0; }

void Runtime::must_have_gpu() const {
  require(settings.devices > 0, cudaErrorNoDevice, "the emulated machine has no gpu (PTXEMU_DEVICES=0)");
}

cudaError_t Runtime::fail(cudaError_t code, const std::string& report) {
  last_report = std::string(error_text(code)) + ": " + report;
  last_code = code;
  thread_error() = {code, code, last_report};
  return code;
}

cudaError_t Runtime::fail_sticky(const Error& error) {
  scheduler.drop_all();
  sticky = code_of(error.kind);
  sticky_report = error.what();
  return fail(sticky, sticky_report);
}

std::string Runtime::leaks() const {
  std::ostringstream out;
  for (const auto& [address, a] : device_allocations) out << "device memory: " << a.bytes << " bytes, allocation " << a.number << "\n";
  for (const auto& [address, a] : pinned_allocations)
    out << (a.owned ? "pinned" : "registered") << " host memory: " << a.bytes << " bytes, allocation " << a.number << "\n";
  for (const auto& [id, stream] : streams.streams()) out << "stream " << id << (stream->blocking ? "" : " (non-blocking)") << "\n";
  for (const auto& [id, event] : streams.events()) out << "event " << id << "\n";
  for (const auto& [id, graph] : graphs.graphs()) out << "graph " << id << ": " << graph->nodes.size() << " nodes\n";
  for (const auto& [id, exec] : graphs.execs()) out << "executable graph " << id << ": " << exec->nodes.size() << " nodes\n";
  return out.str();
}

void Runtime::trace(const std::string& line) {
  if (settings.launches_file.empty()) return;
  if (!launches && !(launches = std::fopen(settings.launches_file.c_str(), "w")))
    throw Failure(cudaErrorInitializationError, "PTXEMU_LAUNCHES=" + settings.launches_file + ": the file cannot be written");
  std::fputs((line + "\n").c_str(), launches);
}

namespace {

// When the library is unloaded or the process ends.
__attribute__((destructor)) void write_counters() {
  Runtime& r = runtime();
  if (r.launches) std::fclose(r.launches);
  if (r.settings.counters_file.empty()) return;
  if (std::FILE* file = std::fopen(r.settings.counters_file.c_str(), "w")) {
    const std::string json = r.counters.json();
    std::fwrite(json.data(), 1, json.size(), file);
    std::fclose(file);
  }
}

// When it is loaded: the environment is read once.
__attribute__((constructor)) void read_settings() { runtime(); }

}  // namespace
}  // namespace ptxemu
