// A pool of threads that runs one loop at a time. The calling thread works too.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lorafuse::cpu {

class Threads {
 public:
  // As many threads as the system gives, at most `count`.
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls job(i, thread) for each i in [0, jobs), in any order, on any thread; thread is in [0, count()). Jobs must not throw.
  void for_each(int64_t jobs, const std::function<void(int64_t job, int thread)>& job);

  // Splits [0, size) into pieces of at most `grain`, the same pieces whatever the number of threads.
  void for_ranges(int64_t size, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& job) {
    for_each((size + grain - 1) / grain, [&](int64_t i, int) { job(i * grain, std::min(size, (i + 1) * grain)); });
  }

 private:
  using Job = std::function<void(int64_t, int)>;
  void work(int thread);
  void take(const Job& job, int64_t jobs, int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, finished_;
  const Job* job_ = nullptr;  // the loop that late workers may still join
  int64_t jobs_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> round_{0};  // counts loops
  std::atomic<int> active_{0};      // workers inside the loop
  bool stop_ = false;
};

}  // namespace lorafuse::cpu
