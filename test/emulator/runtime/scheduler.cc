#include "runtime/scheduler.h"

#include <utility>

namespace ptxemu {
namespace {

constexpr size_t queue_limit = 16384;  // operations with work; a GPU's queue is finite too

// splitmix64 (Steele et al. 2014)
uint64_t hash(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

OperationRef Scheduler::submit(uint64_t lane, std::function<void()> work, const std::vector<OperationRef>& after) {
  if (work && pending_work_ >= queue_limit) {
    redraw();
    while (pending_work_ >= queue_limit) step();
  }
  auto operation = std::make_shared<Operation>();
  operation->number = ++numbers_;
  operation->lane = lane;
  operation->work = std::move(work);
  if (operation->work) ++pending_work_;
  for (const OperationRef& before : after) {
    if (!before || before->done) continue;
    before->followers.push_back(operation);
    ++operation->waits_for;
  }
  if (operation->waits_for == 0) ready_.push_back(operation);
  return operation;
}

void Scheduler::redraw() {
  order_ = random_();
  const double changes[] = {0, 1.0 / 64, 1.0 / 4};
  change_ = changes[random_() % 3];
}

uint64_t Scheduler::priority(uint64_t lane) const { return hash(order_ ^ hash(lane)); }

// The oldest ready operation of the ready lane with the highest priority.
void Scheduler::step() {
  if (chance(change_)) order_ = random_();
  auto best = ready_.begin();
  for (auto candidate = ready_.begin(); candidate != ready_.end(); ++candidate) {
    const auto key = [this](const OperationRef& o) { return std::pair(priority(o->lane), ~o->number); };
    if (key(*candidate) > key(*best)) best = candidate;
  }
  const OperationRef operation = *best;
  ready_.erase(best);
  run(operation);
}

void Scheduler::run(const OperationRef& operation) {
  const std::function<void()> work = std::exchange(operation->work, nullptr);
  operation->done = true;
  if (work) {
    --pending_work_;
    try {
      work();
    } catch (...) {
      for (const OperationRef& follower : std::exchange(operation->followers, {})) ready_.push_back(follower);
      drop_all();
      throw;
    }
  }
  for (const OperationRef& follower : std::exchange(operation->followers, {}))
    if (--follower->waits_for == 0) ready_.push_back(follower);
}

void Scheduler::finish(const OperationRef& operation) {
  if (!operation || operation->done) return;
  redraw();
  while (!operation->done) step();
}

void Scheduler::finish_all() {
  redraw();
  while (!ready_.empty()) step();
}

void Scheduler::progress() {
  redraw();
  for (uint64_t steps = random_() % 4; steps > 0 && !ready_.empty(); --steps) step();
}

void Scheduler::drop_all() {
  while (!ready_.empty()) {
    const OperationRef operation = ready_.back();
    ready_.pop_back();
    operation->done = true;
    operation->work = nullptr;
    for (const OperationRef& follower : std::exchange(operation->followers, {})) ready_.push_back(follower);
  }
  pending_work_ = 0;
}

}  // namespace ptxemu
