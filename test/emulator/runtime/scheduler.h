// Queued work as a graph of operations. Nothing runs before something forces it; what runs next is drawn from a seed:
// each forcing gives the lanes (streams) a random priority and may change it now and then, so that a stream that should have been
// waited for is starved in one run and far ahead in another (probabilistic concurrency testing, Burckhardt et al., ASPLOS 2010).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

namespace ptxemu {

struct Operation;
using OperationRef = std::shared_ptr<Operation>;

struct Operation {
  uint64_t number = 0;         // in order of submission
  uint64_t lane = 0;           // the stream it was given to
  std::function<void()> work;  // empty for a mark: an event, a join
  bool done = false;
  int waits_for = 0;  // operations that it follows and that are not done
  std::vector<OperationRef> followers;
};

class Scheduler {
 public:
  void seed(uint64_t value) { random_.seed(value); }

  // Queues `work` after all of `after`. A full queue runs older work first, as a real one does.
  OperationRef submit(uint64_t lane, std::function<void()> work, const std::vector<OperationRef>& after);

  // These throw what the work throws; then everything queued is dropped.
  void finish(const OperationRef& operation);  // runs until it is done
  void finish_all();
  void progress();  // a query: may run a little, or nothing

  void drop_all();
  size_t pending_work() const { return pending_work_; }

 private:
  void redraw();
  uint64_t priority(uint64_t lane) const;
  void step();
  void run(const OperationRef& operation);
  bool chance(double probability) { return std::uniform_real_distribution<>()(random_) < probability; }

  std::mt19937_64 random_;
  uint64_t order_ = 0;  // what the priorities of the lanes are drawn from
  double change_ = 0;   // probability of a new order at each step
  uint64_t numbers_ = 0;
  size_t pending_work_ = 0;
  std::vector<OperationRef> ready_;
};

}  // namespace ptxemu
