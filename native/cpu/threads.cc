#include "threads.h"

#include <new>
#include <system_error>

namespace lorafuse::cpu {

namespace {
constexpr int kSpins = 2000;  // a few µs: the next op of a step usually follows at once
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

Threads::Threads(int count) {
  try {
    for (int i = 1; i < count; i++) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {  // a limit of the process or the system: those that there are do the work
  } catch (const std::bad_alloc&) {}
}

Threads::~Threads() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    round_++;
  }
  start_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Threads::for_each(int64_t jobs, const std::function<void(int64_t, int)>& job) {
  if (jobs <= 0) return;
  if (workers_.empty() || jobs == 1) {
    for (int64_t i = 0; i < jobs; i++) job(i, 0);
    return;
  }
  {
    std::lock_guard lock(mutex_);
    job_ = &job;
    jobs_ = jobs;
    next_ = 0;
    round_++;
  }
  start_.notify_all();
  take(job, jobs, 0);
  {
    std::lock_guard lock(mutex_);
    job_ = nullptr;  // workers that have not joined yet are not waited for
  }
  for (int i = 0; i < kSpins && active_.load(std::memory_order_acquire); i++) relax();
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return active_.load(std::memory_order_acquire) == 0; });
}

void Threads::take(const Job& job, int64_t jobs, int thread) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < jobs;) job(i, thread);
}

void Threads::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && round_.load(std::memory_order_acquire) == seen; i++) relax();
    const Job* job;
    int64_t jobs;
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return round_.load() != seen; });
      seen = round_;
      if (stop_) return;
      if (!(job = job_)) continue;
      jobs = jobs_;
      active_++;
    }
    take(*job, jobs, thread);
    std::lock_guard lock(mutex_);
    if (--active_ == 0) finished_.notify_one();
  }
}

}  // namespace lorafuse::cpu
