// cp.async (PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy"). The copy happens as late as it may: when its thread
// waits for the group. Until then the target counts as being written, whoever touches it.
#include "memory.h"
#include "select.h"

namespace ptxemu {
namespace {

void issue(Warp& w, const Instruction& in, uint32_t mask) {
  Block& b = *w.block;
  const uint32_t bytes = in.width;
  const uint64_t* from = lanes<uint64_t>(w, in.from(1));
  Addresses to, source;
  read_addresses(w, in, 0, to);
  for (int i = 0; i < 32; i++) source.of[i] = from[i] + uint64_t(int64_t(in.target));
  const uint32_t* size = in.sources > 2 && !in.count ? lanes<uint32_t>(w, in.from(2)) : nullptr;
  const uint32_t ignored = in.count ? predicate(w, in.from(2)) : 0;
  if (b.options->counters) count_global(b, source, mask, bytes, false), count_shared(b, to, mask, bytes);
  each_active(mask, [&](int lane) {
    const uint32_t filled = size ? size[lane] : ignored >> lane & 1 ? 0 : bytes;
    if (filled > bytes)
      fail(w, ErrorKind::out_of_bounds, "cp.async: source size " + std::to_string(filled) + " of " + std::to_string(bytes) + " bytes",
           lane);
    const uint64_t at = (to.of[lane] & window_mask) == shared_window ? to.of[lane] & ~window_mask : to.of[lane];
    shared_bytes(w, at, bytes, lane);
    if (at % bytes) fail_misaligned(w, "shared", at, bytes, lane);
    if (filled) {
      bool device;
      global_bytes(w, source.of[lane], filled, lane, device);
      if (source.of[lane] % bytes) fail_misaligned(w, "global", source.of[lane], bytes, lane);
      if (device && b.checks_global) check_global<Access::read>(w, source.of[lane], filled, lane);  // and once more when it happens
    }
    check_shared<Access::write>(w, uint32_t(at), bytes, lane);
    mark_shared_in_flight(w, uint32_t(at), bytes, lane);
    w.open_copies.push_back({uint32_t(lane), uint32_t(at), bytes, filled, source.of[lane], &in});
  });
}

void commit(Warp& w, const Instruction&, uint32_t mask) {
  CopyGroup group;
  group.mask = mask;
  std::erase_if(w.open_copies, [&](const PendingCopy& c) {
    if (!(mask >> c.lane & 1)) return false;
    group.copies.push_back(c);
    return true;
  });
  w.copy_groups.push_back(std::move(group));
}

void complete(Warp& w, const PendingCopy& c) {
  Block& b = *w.block;
  const Instruction* waiting = w.current;
  w.current = c.issued;
  char data[16] = {};
  if (c.source_bytes) {
    bool device;
    const std::byte* from = global_bytes(w, c.from, c.source_bytes, int(c.lane), device);
    if (device && b.checks_global) {
      uint32_t cells = (c.source_bytes + 1) / 2;
      if (scan_global<false>(b.memory->shadow(c.from), int(cells), b.launch_stamp, block_id(b)))
        check_global_precisely(w, c.from, c.source_bytes, int(c.lane), Access::read);
    }
    std::memcpy(data, from, c.source_bytes);
  }
  std::memcpy(b.shared.data() + c.to, data, c.bytes);
  const uint32_t unit = uint32_t(b.program->shadow_unit);
  const int32_t me = w.stamp << stamp_shift | w.id << 5 | int32_t(c.lane);
  for (uint32_t at = c.to; at < c.to + c.bytes; at += unit) b.written[at / unit] = me;
  w.current = waiting;
}

// Every lane of the mask waits until at most `pending` of its newest groups are open.
void wait(Warp& w, const Instruction& in, uint32_t mask) {
  uint32_t skip[32];
  for (auto& s : skip) s = uint32_t(in.offset);
  uint32_t none_left = 0;  // lanes that have reached their limit
  if (!in.offset) none_left = all_lanes;
  std::vector<uint32_t> completes(w.copy_groups.size());
  for (size_t g = w.copy_groups.size(); g--;) {
    const uint32_t of = w.copy_groups[g].mask & mask;
    completes[g] = of & none_left;
    each_active(of & ~none_left, [&](int lane) {
      if (!--skip[lane]) none_left |= 1u << lane;
    });
  }
  for (size_t g = 0; g < w.copy_groups.size(); g++) {  // in the order in which they were committed
    CopyGroup& group = w.copy_groups[g];
    for (auto& c : group.copies)
      if (completes[g] >> c.lane & 1) complete(w, c);
    if (completes[g] == group.mask) {
      group.copies.clear();
    } else {
      std::erase_if(group.copies, [&](const PendingCopy& c) { return completes[g] >> c.lane & 1; });
    }
    group.mask &= ~completes[g];
  }
  std::erase_if(w.copy_groups, [](const CopyGroup& g) { return !g.mask; });
}

void wait_all(Warp& w, const Instruction& in, uint32_t mask) {
  commit(w, in, mask);
  wait(w, in, mask);
}

void decode(Decoder& d) {
  if (!d.has("async") || d.has("bulk") || d.has("mbarrier") || d.has("tensor")) d.unknown();
  if (d.has("commit_group")) return d.emit(commit);
  if (d.has("wait_all")) return d.emit(wait_all);
  if (d.has("wait_group")) {
    uint64_t pending = 0;
    if (!parse_literal(d.operand(0), Type::u32, pending)) d.unknown();
    d.in.offset = int64_t(pending);
    return d.emit(wait);
  }
  uint64_t size = 0;
  if (!parse_literal(d.operand(2), Type::u32, size) || (size != 4 && size != 8 && size != 16) || (d.has("cg") && size != 16)) d.unknown();
  const Space to = d.address(d.operand(0), Space::shared);
  if (to != Space::shared) d.unknown();
  const int64_t shared_offset = d.in.offset;
  const uint16_t shared_wide = d.in.aux & 1;
  d.in.offset = 0;
  d.address(d.operand(1), Space::global);
  if (!(d.in.aux & 1)) d.unknown();
  d.in.target = int32_t(d.in.offset);
  d.in.offset = shared_offset;
  d.in.aux = shared_wide;
  if (d.operands().size() > (d.has("L2::cache_hint") ? 4u : 3u)) {
    d.in.count = d.is_predicate(d.operand(3));  // ignore-src
    d.source(3, d.in.count ? Type::pred : Type::u32);
  }
  d.in.width = uint8_t(size);
  d.note_shared_access(size);
  d.emit(issue);
}

}  // namespace

void add_async_copy(Table& t) { t["cp"] = decode; }

}  // namespace ptxemu
