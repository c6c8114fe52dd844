// The thread pool. Each backend library has its own inside, so the pool is compiled into this file.
#include "cpu/threads.cc"

#include "process_limits.h"
#include "test.h"

namespace lorafuse::test {

using cpu::Threads;

SUITE(threads) {
  for (int count : {1, 2, 3, 8})
    test_case(text("every job runs once, ", count, count == 1 ? " thread" : " threads"), [count] {
      Threads threads(count);
      EXPECT(threads.count() == count, threads.count());
      for (int64_t jobs : {0, 1, 2, 3, 7, 100, 10000}) {
        std::vector<std::atomic<int>> runs(jobs);
        std::atomic<bool> known = true;
        threads.for_each(jobs, [&](int64_t job, int thread) {
          runs[job]++;
          if (thread < 0 || thread >= count) known = false;
        });
        for (int64_t i = 0; i < jobs; i++) EXPECT(runs[i] == 1, "job ", i, " of ", jobs, " ran ", runs[i].load(), " times");
        EXPECT(known, "a thread's number is out of range");
      }
    });
  test_case("a thread's number is its own while it works", [] {
    Threads threads(3);
    std::array<std::atomic<int>, 3> inside{};
    std::atomic<bool> alone = true;
    for (int round = 0; round < 200; round++)
      threads.for_each(50, [&](int64_t, int thread) {
        if (inside[thread].fetch_add(1) != 0) alone = false;
        std::this_thread::yield();
        inside[thread].fetch_sub(1);
      });
    EXPECT(alone, "two jobs ran at once under one number: they would share scratch");
  });
  test_case("ranges cover everything, the same ones for any number of threads", [] {
    using Ranges = std::vector<std::pair<int64_t, int64_t>>;
    auto ranges = [](int count, int64_t size, int64_t grain) {
      Threads threads(count);
      std::mutex mutex;
      Ranges all;
      threads.for_ranges(size, grain, [&](int64_t begin, int64_t end) {
        std::lock_guard lock(mutex);
        all.push_back({begin, end});
      });
      std::sort(all.begin(), all.end());
      return all;
    };
    for (int64_t size : {1, 9, 10, 11, 1000})
      for (int64_t grain : {1, 10, 999, 2000}) {
        const Ranges alone = ranges(1, size, grain);
        int64_t next = 0;
        for (auto [begin, end] : alone) {
          EXPECT(begin == next && end > begin && end - begin <= grain, begin, "…", end, " after ", next);
          next = end;
        }
        EXPECT(next == size, "the ranges end at ", next, " of ", size);
        EXPECT(ranges(3, size, grain) == alone, "other ranges with 3 threads");
      }
  });
  test_case("what a loop wrote is seen after it, over 10000 small loops", [] {
    Threads threads(3);
    std::vector<int64_t> values(5, 0);
    for (int64_t round = 1; round <= 10000; round++) {
      threads.for_each(5, [&](int64_t job, int) { values[job] += job; });
      for (int64_t i = 0; i < 5; i++) EXPECT(values[i] == round * i, "loop ", round, ", job ", i, ": ", values[i]);
    }
  });
  test_case("several pools work at once, each from its own thread", [] {
    std::vector<std::thread> users;
    std::atomic<int64_t> wrong = 0;
    for (int user = 0; user < 4; user++)
      users.emplace_back([&wrong, user] {
        Threads threads(1 + user % 3);
        for (int round = 0; round < 500; round++) {
          std::atomic<int64_t> sum = 0;
          threads.for_each(20, [&](int64_t job, int) { sum += job; });
          if (sum != 190) wrong++;
        }
      });
    for (auto& user : users) user.join();
    EXPECT(wrong == 0, wrong.load(), " loops lost or repeated a job");
  });
#ifdef LORAFUSE_LIMITS_ADDRESSES
  test_case("a pool works with the threads that the system gives", [] {
    const WithAddresses limit(rlim_t{256} << 20);
    for (int i = 0; i < 3; i++) {
      Threads threads(5000);
      EXPECT(threads.count() >= 1 && threads.count() < 5000, threads.count(), " threads");
      std::atomic<int64_t> sum = 0;
      threads.for_each(1000, [&](int64_t job, int) { sum += job; });
      EXPECT(sum == 499500, sum.load());
    }
  });
#endif
  test_case("pools end whether they were used or not, 500 times", [] {
    for (int i = 0; i < 500; i++) {
      Threads threads(1 + i % 4);
      std::atomic<int> runs = 0;
      if (i % 2) threads.for_each(i % 7, [&](int64_t, int) { runs++; });
      EXPECT(runs == (i % 2 ? i % 7 : 0), runs.load());
    }
  });
}

}  // namespace lorafuse::test
