// bar, barrier, bar.warp.sync, membar, fence, nanosleep, trap (PTX ISA, "Parallel Synchronization and Communication Instructions").
#include "select.h"

namespace ptxemu {
namespace {

void nothing(Warp&, const Instruction&, uint32_t) {}

void decode_barrier(Decoder& d) {
  if (d.has("warp")) {
    d.source(0, Type::b32);
    d.in.flow = Flow::collective;
    d.in.member_mask = 0;
    d.in.aux = 1;
    return d.emit([](Warp& w, const Instruction&, uint32_t) { synchronise_lanes(w); });
  }
  if (d.has("cluster")) d.unknown();
  const bool reduces = d.has("red");
  size_t count = d.operands().size(), at = 0;
  if (reduces) d.target(at++, d.has("popc") ? Type::u32 : Type::pred), count--;
  const size_t predicates = reduces ? 1 : 0;
  if (count < 1 + predicates || count > 2 + predicates) d.unknown();
  for (size_t i = 0; i < count - predicates; i++) d.source(at++, Type::u32);
  d.in.count = uint8_t(count - predicates);
  if (reduces) {
    d.in.offset = d.negated(at);
    d.predicate_source(at);
  }
  d.in.aux = d.has("arrive") ? 1 : reduces ? (d.has("popc") ? 2 : d.has("and") ? 3 : d.has("or") ? 4 : 0) : 0;
  if (!d.has("sync") && !d.has("arrive") && !reduces) d.unknown();
  if (reduces && !d.in.aux) d.unknown();
  d.in.width = d.part(0) == "bar" || d.has("aligned");  // all lanes of the warp together
  d.in.flow = Flow::block_barrier;
  d.emit(nothing);
}

void decode_fence(Decoder& d) {
  if (d.has("proxy") || d.has("mbarrier_init")) d.unknown();
  const bool block_only = d.has("cta");
  d.emit(block_only ? nothing : [](Warp& w, const Instruction&, uint32_t) { w.block->fenced = true; });
}

void decode_trap(Decoder& d) {
  d.emit([](Warp& w, const Instruction&, uint32_t mask) { fail(w, ErrorKind::trap, "the kernel executed trap", std::countr_zero(mask)); });
}

}  // namespace

void add_synchronisation(Table& t) {
  t["bar"] = t["barrier"] = decode_barrier;
  t["membar"] = t["fence"] = decode_fence;
  t["nanosleep"] = [](Decoder& d) { d.emit(nothing); };
  t["pmevent"] = t["nanosleep"];
  t["trap"] = t["brkpt"] = decode_trap;
}

}  // namespace ptxemu
