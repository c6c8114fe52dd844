#include "frozen.h"

#include <atomic>
#include <future>
#include <system_error>

namespace lorafuse {

void Frozen::place(const Graph& graph) {
  std::vector<const Value*> missing;
  size_t bytes = 0;
  for (const Value& v : graph.values) {
    if (v.storage != Storage::weight || v.network != network_ || placed_.contains(v.name)) continue;
    missing.push_back(&v);
    bytes += aligned(v.bytes());
  }
  if (missing.empty()) return;
  if (backend_.reads_host_memory()) {
    convert(missing);
    weights.check();
    for (const Value* v : missing) placed_[v->name] = convert(*v);
    return;
  }
  auto* to = static_cast<unsigned char*>(blocks_.emplace_back(backend_, bytes).data());
  // Some at a time: the copies made on the host stay few.
  const size_t some = 4 * threads_;
  std::map<std::string, Tensor> uploaded;
  for (size_t i = 0; i < missing.size(); i++) {
    if (i % some == 0) convert(std::span(missing).subspan(i, std::min(some, missing.size() - i)));
    const Tensor t = convert(*missing[i]);
    backend_.upload(to, t.data, t.bytes());
    weights.release(missing[i]->name);
    uploaded[missing[i]->name] = {to, t.dtype, t.shape};
    to += aligned(t.bytes());
  }
  weights.check();
  placed_.merge(uploaded);
}

// Brings the weights into the form that kernels read, on all threads.
void Frozen::convert(std::span<const Value* const> values) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < values.size(); i = next++) convert(*values[i]);
  };
  std::vector<std::future<void>> helpers;  // each is waited for, also where another throws
  try {
    while (static_cast<int>(helpers.size()) + 1 < threads_ && helpers.size() + 1 < values.size())
      helpers.push_back(std::async(std::launch::async, work));
  } catch (const std::system_error&) {  // the system gives no more threads: those that there are do it
  }
  work();
  for (std::future<void>& helper : helpers) helper.get();
}

Tensor Frozen::get(const Value& weight) { return placed_.at(weight.name); }

void Frozen::release() {
  blocks_.clear();
  placed_.clear();
  weights.release();
}

}  // namespace lorafuse
