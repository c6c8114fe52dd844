// Registers of PTX are without number; a warp's file would not fit a cache. Registers that are never alive together share a place here:
// backward liveness over basic blocks to a fixed point, then a linear scan over intervals (Poletto, Sarkar 1999).
#include <algorithm>
#include <set>

#include "decode.h"

namespace ptxemu {
namespace {

class Liveness {
 public:
  Liveness(const Program& program, size_t registers, const std::map<int, std::vector<int>>& returns)
      : code_(program.code), words_((registers + 63) / 64) {
    find_blocks(program, returns);
    live_in_.assign(starts_.size() * words_, 0);
    live_out_.assign(starts_.size() * words_, 0);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t b = starts_.size(); b--;) changed |= update(b);
    }
  }

  // First and last place of code where each register is alive; last < first: never.
  void intervals(std::vector<int>& first, std::vector<int>& last) const {
    auto touch = [&](size_t reg, int at) { first[reg] = std::min(first[reg], at), last[reg] = std::max(last[reg], at); };
    for (size_t b = 0; b < starts_.size(); b++) {
      const int from = starts_[b], to = end_of(b) - 1;
      for (size_t word = 0; word < words_; word++) {
        for (uint64_t in = live_in_[b * words_ + word]; in; in &= in - 1) touch(word * 64 + size_t(__builtin_ctzll(in)), from);
        for (uint64_t out = live_out_[b * words_ + word]; out; out &= out - 1) touch(word * 64 + size_t(__builtin_ctzll(out)), to + 1);
      }
      for (int pc = from; pc <= to; pc++)
        for (int i = 0; i < code_[pc].targets + code_[pc].sources; i++)
          if (is_register(code_[pc].operand[i])) touch(code_[pc].operand[i], pc + (i < code_[pc].targets));
    }
  }
  bool read_before_written(size_t reg) const { return live_in_[reg / 64] >> (reg % 64) & 1; }

 private:
  static bool is_register(uint32_t operand) { return operand >> 30 == registers; }
  int end_of(size_t block) const { return block + 1 < starts_.size() ? starts_[block + 1] : int(code_.size()); }

  void find_blocks(const Program& program, const std::map<int, std::vector<int>>& returns) {
    std::set<int> starts{0};
    std::map<int, std::vector<int>> jumps;  // by the instruction that jumps
    for (int pc = 0; pc < int(code_.size()); pc++) {
      const Instruction& in = code_[pc];
      if (in.flow == Flow::branch || in.flow == Flow::call) jumps[pc] = {in.target};
      else if (in.flow == Flow::branch_index) jumps[pc] = program.tables[in.target];
      else if (in.flow == Flow::ret) jumps[pc] = returns.at(pc);
      else if (in.flow != Flow::exit) continue;
      starts.insert(pc + 1);
      starts.insert(jumps[pc].begin(), jumps[pc].end());
    }
    starts.erase(int(code_.size()));
    starts_.assign(starts.begin(), starts.end());
    next_.resize(starts_.size());
    for (size_t b = 0; b < starts_.size(); b++) {
      const int last = end_of(b) - 1;
      const Instruction& in = code_[last];
      const bool falls = in.guard != no_operand || in.flow == Flow::next || in.flow == Flow::collective || in.flow == Flow::block_barrier;
      auto add = [&](int pc) { next_[b].push_back(size_t(std::lower_bound(starts_.begin(), starts_.end(), pc) - starts_.begin())); };
      if (falls && last + 1 < int(code_.size())) add(last + 1);
      if (auto it = jumps.find(last); it != jumps.end())
        for (int to : it->second) add(to);
    }
  }

  bool update(size_t b) {
    uint64_t *out = live_out_.data() + b * words_, *in = live_in_.data() + b * words_;
    for (size_t n : next_[b])
      for (size_t word = 0; word < words_; word++) out[word] |= live_in_[n * words_ + word];
    std::vector<uint64_t> live(out, out + words_);
    for (int pc = end_of(b) - 1; pc >= starts_[b]; pc--) {
      const Instruction& i = code_[pc];
      for (int k = 0; k < i.targets; k++)  // written under a guard: the old value may stay
        if (is_register(i.operand[k]) && i.guard == no_operand) live[i.operand[k] / 64] &= ~(uint64_t(1) << (i.operand[k] % 64));
      for (int k = i.targets; k < i.targets + i.sources; k++)
        if (is_register(i.operand[k])) live[i.operand[k] / 64] |= uint64_t(1) << (i.operand[k] % 64);
      for (int k = 0; k < i.targets; k++)
        if (is_register(i.operand[k]) && i.guard != no_operand) live[i.operand[k] / 64] |= uint64_t(1) << (i.operand[k] % 64);
    }
    const bool changed = !std::equal(live.begin(), live.end(), in);
    std::copy(live.begin(), live.end(), in);
    return changed;
  }

  const std::vector<Instruction>& code_;
  const size_t words_;
  std::vector<int> starts_;
  std::vector<std::vector<size_t>> next_;
  std::vector<uint64_t> live_in_, live_out_;
};

}  // namespace

void place_registers(Program& program, const std::vector<bool>& wide, const std::map<int, std::vector<int>>& returns) {
  Liveness liveness(program, wide.size(), returns);
  std::vector<int> first(wide.size(), INT32_MAX), last(wide.size(), -1);
  liveness.intervals(first, last);
  std::vector<uint32_t> order, place(wide.size(), 0);
  for (uint32_t r = 0; r < wide.size(); r++)
    if (last[r] >= 0) order.push_back(r);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return first[a] != first[b] ? first[a] < first[b] : a < b; });
  std::set<std::pair<int, uint32_t>> active;  // last, register
  std::vector<uint32_t> free[2];              // by width
  for (uint32_t r : order) {
    while (!active.empty() && active.begin()->first < first[r]) {
      const uint32_t done = active.begin()->second;
      free[wide[done]].push_back(place[done]);
      active.erase(active.begin());
    }
    auto& list = free[wide[r]];
    if (list.empty()) {
      place[r] = uint32_t(program.register_bytes);
      program.register_bytes += wide[r] ? 256 : 128;
    } else {
      place[r] = list.back();
      list.pop_back();
    }
    active.insert({last[r], r});
    if (!liveness.read_before_written(r)) continue;
    program.poisoned.push_back(place[r]);
    if (wide[r]) program.poisoned.push_back(place[r] + 128);
  }
  for (auto& in : program.code)
    for (int i = 0; i < in.targets + in.sources; i++)
      if (in.operand[i] >> 30 == registers) in.operand[i] = operand_of(registers, place[in.operand[i]]);
}

}  // namespace ptxemu
