// Barriers of a block (PTX ISA, "bar, barrier") and the order of accesses that they make: a vector clock per warp.
#include <algorithm>
#include <bit>

#include "../checks/shared.h"
#include "../instructions/lanes.h"

namespace ptxemu {

void synchronise(Block& b, const std::vector<int>& from, const std::vector<int>& to) {
  int32_t now = ++b.clock;
  if (now >= last_stamp) throw Error(ErrorKind::limit, "more synchronisations in one block than the race check can count");
  int32_t joined[32];
  std::fill(std::begin(joined), std::end(joined), 0);
  for (int i : from)
    for (int v = 0; v < 32; v++) joined[v] = std::max(joined[v], b.warps[i].seen[v]);
  for (int i : from) joined[i] = now - 1;
  for (int i : to) {
    Warp& w = b.warps[i];
    for (int v = 0; v < 32; v++) w.seen[v] = std::max(w.seen[v], joined[v]);
  }
  for (int i : from) b.warps[i].stamp = now;  // later accesses are not covered
  for (int i : to) {
    Warp& w = b.warps[i];
    w.stamp = now;
    w.seen_of_all = INT32_MAX;
    for (size_t v = 0; v < b.warps.size(); v++)
      if (int(v) != i) w.seen_of_all = std::min(w.seen_of_all, w.seen[v]);
    if (b.warps.size() == 1) w.seen_of_all = now - 1;
  }
  if (from.size() == b.warps.size() && to.size() == from.size() && now > last_stamp / 2) restart_clock(b);
}

void synchronise_lanes(Warp& w) {
  Block& b = *w.block;
  if (b.clock + 1 >= last_stamp) fail(w, ErrorKind::limit, "more synchronisations in one block than the race check can count");
  w.stamp = ++b.clock;
}

bool open_barriers(Block& b) {
  bool opened = false;
  for (int id = 0; id < 16; id++) {
    std::vector<int>& arrived = b.barriers[id].arrived;
    std::vector<int> waiting, from;
    uint32_t threads = 0;
    int alive = 0;
    for (auto& w : b.warps) {
      alive += !w.done;
      if (!w.at_barrier || w.barrier != id) continue;
      if (!waiting.empty() && threads != w.barrier_threads)
        fail(w, ErrorKind::barrier,
             "barrier " + std::to_string(id) + ": warps expect different numbers of threads, " + std::to_string(threads) + " and " +
                 std::to_string(w.barrier_threads));
      threads = w.barrier_threads;
      waiting.push_back(w.id);
    }
    if (waiting.empty()) continue;
    size_t here = waiting.size() + arrived.size();
    if (threads && here * 32 > threads && waiting.size() + arrived.size() > threads / 32)
      fail(b.warps[waiting.back()], ErrorKind::barrier,
           "barrier " + std::to_string(id) + " for " + std::to_string(threads) + " threads: " + std::to_string(here * 32) + " came");
    if (threads ? here * 32 < threads : int(here) < alive) continue;
    from = waiting;
    from.insert(from.end(), arrived.begin(), arrived.end());
    if (!threads)  // a warp that has ended counts as arrived
      for (auto& w : b.warps)
        if (w.done) from.push_back(w.id);
    std::sort(from.begin(), from.end());
    from.erase(std::unique(from.begin(), from.end()), from.end());
    std::vector<int> to = waiting;
    if (!threads && from.size() == b.warps.size()) to = from;
    synchronise(b, from, to);
    arrived.clear();

    uint32_t count = 0, of = 0;
    for (int i : waiting)
      if (const Instruction* in = b.warps[i].reduction) {
        uint32_t p = predicate(b.warps[i], in->from(in->sources - 1));
        if (in->offset) p = ~p;  // !p
        count += uint32_t(std::popcount(p & b.warps[i].reduction_mask));
        of += uint32_t(std::popcount(b.warps[i].reduction_mask));
      }
    for (int i : waiting) {
      Warp& w = b.warps[i];
      w.at_barrier = false;
      opened = true;
      if (!w.reduction) continue;
      uint32_t mask = w.reduction_mask, to_operand = w.reduction->to(0);
      if (w.reduction->aux == 2) {
        for_lanes(lanes<uint32_t>(w, to_operand), mask, [&](int) { return count; });
      } else {
        bool result = w.reduction->aux == 3 ? count == of : count > 0;
        predicate(w, to_operand) = (predicate(w, to_operand) & ~mask) | (result ? mask : 0);
      }
      w.reduction = nullptr;
    }
  }
  return opened;
}

}  // namespace ptxemu
