// Places every activation and workspace of a graph in one arena: liveness, then greedy best fit, largest first
// (arXiv:2001.03288, "greedy by size").
#include <algorithm>
#include <numeric>

#include "graph.h"

namespace lorafuse {
namespace {

struct Buffer {
  size_t bytes;
  int32_t first, last;  // node positions, both included
  size_t* offset;       // where the answer goes
};

// Sets the offsets so that no two buffers that live at once overlap; returns the bytes needed.
size_t place(std::vector<Buffer> buffers) {
  std::stable_sort(buffers.begin(), buffers.end(), [](const Buffer& a, const Buffer& b) { return a.bytes > b.bytes; });
  std::vector<const Buffer*> placed;  // by offset
  size_t total = 0;
  for (const Buffer& buffer : buffers) {
    size_t best = SIZE_MAX, best_gap = SIZE_MAX, cursor = 0;
    for (const Buffer* other : placed) {
      if (other->last < buffer.first || other->first > buffer.last) continue;
      if (*other->offset > cursor) {
        const size_t gap = *other->offset - cursor;
        if (gap >= buffer.bytes && gap < best_gap) best = cursor, best_gap = gap;
      }
      cursor = std::max(cursor, *other->offset + other->bytes);
    }
    *buffer.offset = best == SIZE_MAX ? cursor : best;
    total = std::max(total, *buffer.offset + buffer.bytes);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), &buffer, [](const Buffer* a, const Buffer* b) { return *a->offset < *b->offset; }),
        &buffer);
  }
  return total;
}

}  // namespace

Plan plan(const Graph& graph, const std::vector<size_t>& workspace_bytes) {
  const auto nodes = static_cast<int32_t>(graph.nodes.size());
  Plan p;
  p.offsets.assign(graph.values.size(), 0);
  p.workspaces.assign(graph.nodes.size(), 0);
  p.first_use.assign(graph.values.size(), nodes);
  p.last_use.assign(graph.values.size(), -1);
  for (int32_t i = 0; i < nodes; i++) {
    for (const auto* list : {&graph.nodes[i].inputs, &graph.nodes[i].outputs})
      for (ValueId v : *list) {
        p.first_use[v] = std::min(p.first_use[v], i);
        p.last_use[v] = i;
      }
  }
  for (ValueId v : graph.results) p.last_use[v] = nodes;
  for (size_t v = 0; v < graph.values.size(); v++)
    if (graph.values[v].storage == Storage::input) p.first_use[v] = 0;  // written before the first node

  std::vector<Buffer> buffers;
  for (size_t v = 0; v < graph.values.size(); v++)
    if (graph.values[v].is_planned() && p.last_use[v] >= 0)
      buffers.push_back({aligned(graph.values[v].bytes()), p.first_use[v], p.last_use[v], &p.offsets[v]});
  for (int32_t i = 0; i < nodes; i++)
    if (workspace_bytes[i] > 0) buffers.push_back({aligned(workspace_bytes[i]), i, i, &p.workspaces[i]});

  std::vector<int64_t> change(nodes + 2, 0);
  for (const Buffer& b : buffers) change[b.first] += static_cast<int64_t>(b.bytes), change[b.last + 1] -= static_cast<int64_t>(b.bytes);
  int64_t alive = 0;
  for (int64_t c : change) p.alive.push_back(static_cast<size_t>(alive += c));
  p.lower_bound_bytes = *std::max_element(p.alive.begin(), p.alive.end());
  p.alive.resize(graph.nodes.size());

  p.arena_bytes = place(std::move(buffers));
  return p;
}

}  // namespace lorafuse
