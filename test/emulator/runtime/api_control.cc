// The emulator's own calls (ptxemu.h).
#include "runtime/ptxemu.h"

#include <set>
#include <stdexcept>
#include <utility>

#include "runtime/runtime.h"

using namespace ptxemu;

namespace {

// Where the text of a call stays until its thread makes the same call again.
template <class Make> const char* text(std::string& place, Make make) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  place = make(r);
  return place.c_str();
}

std::string lines(const std::set<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += name + "\n";
  return out;
}

}  // namespace

extern "C" {

int ptxemu_set_option(const char* name, const char* value) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  try {
    const Settings before = r.settings;
    r.settings.set(name, value);
    if (before.options.seed != r.settings.options.seed) r.scheduler.seed(r.settings.options.seed);
    if (before.compute_capability != r.settings.compute_capability || before.memory_bytes != r.settings.memory_bytes ||
        before.devices != r.settings.devices || before.multiprocessors != r.settings.multiprocessors)
      r.reset();
    return 0;
  } catch (const std::exception& e) {
    r.last_report = e.what();
    return 1;
  }
}

void ptxemu_fail_allocation(long n) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  r.settings.fail_allocation = n;
}

void ptxemu_fail_launch(long n) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  r.settings.fail_launch = n;
}

const char* ptxemu_counters_json() {
  thread_local std::string place;
  return text(place, [](Runtime& r) { return r.counters.json(); });
}

void ptxemu_reset_counters() {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  r.counters = {};
}

const char* ptxemu_launched() {
  thread_local std::string place;
  return text(place, [](Runtime& r) { return lines(std::exchange(r.launched, {})); });
}

const char* ptxemu_idle() {
  thread_local std::string place;
  return text(place, [](Runtime& r) {
    std::set<std::string> idle;
    for (const Function* f : r.modules.resolve_all(*r.memory, r.gpu))
      if (!r.counters.kernels.count(f->name) && f->binary->module->opcodes(*f->kernel) != std::map<std::string, int>{{"ret", 1}})
        idle.insert(f->name);
    return lines(idle);
  });
}

const char* ptxemu_leaks() {
  thread_local std::string place;
  return text(place, [](Runtime& r) { return r.leaks(); });
}

const char* ptxemu_last_report() {
  thread_local std::string place;
  return text(place, [](Runtime& r) { return r.last_report; });
}

long ptxemu_pending() {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  return long(r.scheduler.pending_work());
}

void ptxemu_reset() {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  r.reset();
  r.last_code = cudaSuccess;
  r.last_report.clear();
}
}
