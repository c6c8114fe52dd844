// WeightGrads move down to the next one and become one node with it: they are small, and one alone leaves most of a GPU idle.
// Their inputs stay alive that much longer, so they stop where that would keep more than kMostWaitingBytes alive.
#include <set>

#include "rewrite.h"

namespace lorafuse {
namespace {

constexpr size_t kMostWaitingBytes = size_t{16} << 20;

struct WeightGradFuser : Rewrite {
  using Rewrite::Rewrite;

  // Bytes that `grad` alone would keep alive until position i.
  size_t waiting_bytes(const Node& grad, int i) const {
    size_t bytes = 0;
    for (ValueId v : std::set<ValueId>(grad.inputs.begin(), grad.inputs.end()))
      if (last_use[v] < i) bytes += graph.values[v].bytes();
    return bytes;
  }

  // Two that add to one gradient stay apart: within a node their order would be open.
  bool may_join(const Node& grad, int i) const {
    const auto& others = node(i).outputs;
    const bool apart = std::find_first_of(grad.outputs.begin(), grad.outputs.end(), others.begin(), others.end()) == grad.outputs.end();
    return apart && waiting_bytes(grad, i) <= kMostWaitingBytes;
  }

  void run() {
    int open = -1;  // the latest WeightGrad
    for (int i = 0; i < size(); i++) {
      if (!as<WeightGrad>(i)) continue;
      if (open >= 0 && may_join(node(open), i)) {
        Node &first = node(open), &second = node(i);
        prepend(std::get<WeightGrad>(first.op).scales, std::get<WeightGrad>(second.op).scales);
        prepend(first.inputs, second.inputs);
        prepend(first.outputs, second.outputs);
        remove(open);
      }
      open = i;
    }
  }

  template <class T> static void prepend(const std::vector<T>& first, std::vector<T>& to) {
    to.insert(to.begin(), first.begin(), first.end());
  }
};

}  // namespace

Graph fuse_weight_grads(Graph graph) { return rewritten<WeightGradFuser>(std::move(graph)); }

}  // namespace lorafuse
