#include "frozen.h"

#include <atomic>
#include <exception>
#include <system_error>
#include <thread>

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
    for (const Value* v : missing) placed_[v->name] = weights.get(v->name, v->dtype, v->shape, v->form);
    return;
  }
  blocks_.push_back(nullptr);
  blocks_.back() = backend_.allocate(bytes);
  auto* to = static_cast<unsigned char*>(blocks_.back());
  // Some at a time: the copies made on the host stay few.
  for (size_t first = 0; first < missing.size(); first += 4 * threads_) {
    const std::vector<const Value*> some(missing.begin() + first, missing.begin() + std::min(missing.size(), first + 4 * threads_));
    convert(some);
    for (const Value* v : some) {
      const Tensor t = weights.get(v->name, v->dtype, v->shape, v->form);
      backend_.upload(to, t.data, t.bytes());
      weights.release(v->name);
      placed_[v->name] = {to, t.dtype, t.shape};
      to += aligned(t.bytes());
    }
  }
}

// Brings the weights into the form that kernels read, on all threads.
void Frozen::convert(const std::vector<const Value*>& values) {
  std::atomic<size_t> next = 0;
  std::exception_ptr failed;
  std::atomic_flag has_failed = ATOMIC_FLAG_INIT;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < values.size(); i = next++)
        weights.get(values[i]->name, values[i]->dtype, values[i]->shape, values[i]->form);
    } catch (...) {
      if (!has_failed.test_and_set()) failed = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  try {
    while (static_cast<int>(helpers.size()) + 1 < threads_ && helpers.size() + 1 < values.size()) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // the system gives no more threads: those that there are do it
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failed) std::rethrow_exception(failed);
}

Tensor Frozen::get(const Value& weight) { return placed_.at(weight.name); }

void Frozen::free_blocks() {
  for (void* block : blocks_)
    if (block) backend_.release(block);
  blocks_.clear();
}

void Frozen::release() {
  free_blocks();
  placed_.clear();
  weights.release();
}

}  // namespace lorafuse
