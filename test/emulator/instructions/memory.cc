// ld, st, ldu, prefetch (PTX ISA, "Data Movement and Conversion Instructions"). Lanes that access neighbouring elements are checked and
// copied as one run; anything else lane by lane.
#include "elements.h"

#include "select.h"

namespace ptxemu {
namespace {

inline bool same_address(const Addresses& a, uint32_t mask) {
  const uint64_t one = a.of[std::countr_zero(mask)];
  uint64_t off = 0;
  for (int i = 0; i < 32; i++) off |= mask >> i & 1 ? a.of[i] ^ one : 0;
  return off == 0;
}

template <int width, int count, bool store> inline void global_lane(Warp& w, const Instruction& in, uint64_t address, int lane) {
  constexpr uint32_t total = width * count;
  bool device;
  std::byte* p = global_bytes(w, address, total, lane, device);
  if (address % total) fail_misaligned(w, "global", address, total, lane);
  if (in.aux & strong) {
    if (device) needs_all_blocks(w, lane);
    if (in.aux & releases) w.block->fenced = true;
    meet_at(w, address, store);
    if (device) check_global_precisely(w, address, total, lane, store ? Access::strong_write : Access::strong_read);
  } else if (device && w.block->checks_global) {
    check_global<store ? Access::write : Access::read>(w, address, total, lane);
  }
  move_elements<width, count, store>(w, in, lane, p);
}

template <int width, int count, bool store> inline void shared_lane(Warp& w, const Instruction& in, uint64_t offset, int lane) {
  constexpr uint32_t total = width * count;
  char* p = shared_bytes(w, offset, total, lane);
  if (offset % total) fail_misaligned(w, "shared", offset, total, lane);
  if constexpr (store) {
    alignas(16) char data[total];
    move_elements<width, count, true>(w, in, lane, data);
    if (in.aux & strong) check_shared<Access::strong_write>(w, uint32_t(offset), total, lane);
    else check_shared<Access::write>(w, uint32_t(offset), total, lane, data);
    std::memcpy(p, data, total);
  } else {
    if (in.aux & strong) check_shared<Access::strong_read>(w, uint32_t(offset), total, lane);
    else check_shared<Access::read>(w, uint32_t(offset), total, lane);
    move_elements<width, count, false>(w, in, lane, p);
  }
}

template <int width, int count, bool store> inline void local_lane(Warp& w, const Instruction& in, uint64_t offset, int lane) {
  constexpr uint32_t total = width * count;
  if (offset % total) fail_misaligned(w, "local", offset, total, lane);
  move_elements<width, count, store>(w, in, lane, local_bytes(w, offset, total, lane));
}

template <int width, int count, bool store> inline void param_lane(Warp& w, const Instruction& in, uint64_t offset, int lane) {
  constexpr uint32_t total = width * count;
  const std::vector<std::byte>& p = w.block->launch->parameters;
  if (store || offset + total > p.size() || offset > p.size())
    fail(w, ErrorKind::out_of_bounds, "kernel parameters, offset " + std::to_string(offset) + " of " + std::to_string(p.size()), lane);
  move_elements<width, count, false>(w, in, lane, const_cast<std::byte*>(p.data()) + offset);
}

template <int width, int count, bool store> void global_lanes(Warp& w, const Instruction& in, uint32_t mask, const Addresses& a) {
  constexpr uint32_t total = width * count;
  Block& b = *w.block;
  if (b.options->counters) count_global(b, a, mask, total, store);
  if ((total == 1 && store) || in.aux & strong)
    return each_active(mask, [&](int lane) { global_lane<width, count, store>(w, in, a.of[lane], lane); });
  if (!store && same_address(a, mask)) {
    const int first = std::countr_zero(mask);
    global_lane<width, count, false>(w, in, a.of[first], first);
    bool device;
    return move_to_all<width, count>(w, in, mask, global_bytes(w, a.of[first], total, first, device));
  }
  each_run(a, mask, total, [&](int first, int n) {
    const uint64_t address = a.of[first];
    bool device;
    std::byte* p = global_bytes(w, address, total * uint32_t(n), first, device, n);
    if (address % total) fail_misaligned(w, "global", address, total, first);
    if (device && b.checks_global &&
        scan_global<store>(b.memory->shadow(address), (int(address & 1) + int(total) * n + 1) / 2, b.launch_stamp, block_id(b)))
        [[unlikely]] {
      for (int i = 0; i < n; i++) global_lane<width, count, store>(w, in, a.of[first + i], first + i);
      return;
    }
    move_run<width, count, store>(w, in, first, n, p);
  });
}

// Every different element is checked once; then all lanes take theirs.
template <int width, int count> void read_shared(Warp& w, const Instruction& in, uint32_t mask, const Addresses& a) {
  constexpr uint32_t total = width * count;
  Block& b = *w.block;
  Runs runs;
  find_runs(a, mask, total, runs);
  if (b.options->counters) count_shared(b, a, mask, total, runs.count == 1);
  bool hazard = false;
  for (int r = 0; r < runs.count && !hazard; r++) {
    const uint64_t offset = a.of[runs.first[r]];
    hazard = offset % total || offset + total * runs.lanes[r] > b.shared.size() || offset > b.shared.size() ||
             check_shared_run<Access::read>(w, uint32_t(offset), total, runs.first[r], runs.lanes[r], runs.repeated[r]);
  }
  if (hazard) [[unlikely]]
    return each_active(mask, [&](int lane) { shared_lane<width, count, false>(w, in, a.of[lane], lane); });
  char* memory = b.shared.data();
  if (mask != all_lanes || in.aux & (sign_extend | into_wide)) {
    each_active(mask, [&](int lane) { move_elements<width, count, false>(w, in, lane, memory + a.of[lane]); });
  } else if (runs.count == 1 && runs.lanes[0] == 32) {
    move_run<width, count, false>(w, in, 0, 32, memory + a.of[0]);
  } else {
    for (int k = 0; k < count; k++) {
      auto* r = lanes<Register<width>>(w, in.to(k));
      for (int lane = 0; lane < 32; lane++) {
        Element<width> e;
        std::memcpy(&e, memory + a.of[lane] + k * width, width);
        r[lane] = e;
      }
    }
  }
}

template <int width, int count> void write_shared(Warp& w, const Instruction& in, uint32_t mask, const Addresses& a) {
  constexpr uint32_t total = width * count;
  Block& b = *w.block;
  if (b.options->counters) count_shared(b, a, mask, total);
  each_run(a, mask, total, [&](int first, int n) {
    const uint64_t offset = a.of[first];
    if (n == 1 || offset % total || offset + total * uint32_t(n) > b.shared.size() ||
        check_shared_run<Access::write>(w, uint32_t(offset), total, first, n)) {
      for (int i = 0; i < n; i++) shared_lane<width, count, true>(w, in, a.of[first + i], first + i);
      return;
    }
    move_run<width, count, true>(w, in, first, n, b.shared.data() + offset);
  });
}

template <int width, int count, bool store> void shared_lanes(Warp& w, const Instruction& in, uint32_t mask, const Addresses& a) {
  if (in.aux & strong) {
    if (w.block->options->counters) count_shared(*w.block, a, mask, width * count);
    each_active(mask, [&](int lane) { shared_lane<width, count, store>(w, in, a.of[lane], lane); });
  } else if constexpr (store) {
    write_shared<width, count>(w, in, mask, a);
  } else {
    read_shared<width, count>(w, in, mask, a);
  }
}

template <int width, int count, bool store> void access_global(Warp& w, const Instruction& in, uint32_t mask) {
  Addresses a;
  read_addresses(w, in, 0, a);
  global_lanes<width, count, store>(w, in, mask, a);
}

template <int width, int count, bool store> void access_shared(Warp& w, const Instruction& in, uint32_t mask) {
  Addresses a;
  read_addresses(w, in, 0, a);
  shared_lanes<width, count, store>(w, in, mask, a);
}

template <int width, int count, bool store> void access_local(Warp& w, const Instruction& in, uint32_t mask) {
  Addresses a;
  read_addresses(w, in, 0, a);
  w.block->counters->local_requests++;
  each_active(mask, [&](int lane) { local_lane<width, count, store>(w, in, a.of[lane], lane); });
}

template <int width, int count, bool store> void access_param(Warp& w, const Instruction& in, uint32_t mask) {
  Addresses a;
  read_addresses(w, in, 0, a);
  if (!same_address(a, mask)) return each_active(mask, [&](int lane) { param_lane<width, count, store>(w, in, a.of[lane], lane); });
  const int first = std::countr_zero(mask);
  param_lane<width, count, store>(w, in, a.of[first], first);
  move_to_all<width, count>(w, in, mask, w.block->launch->parameters.data() + a.of[first]);
}

template <int width, int count, bool store> void access_generic(Warp& w, const Instruction& in, uint32_t mask) {
  Addresses a;
  read_addresses(w, in, 0, a);
  uint32_t shared = 0, local = 0, param = 0;
  for (int i = 0; i < 32; i++) {
    const uint64_t window = a.of[i] & window_mask;
    shared |= uint32_t(window == shared_window) << i;
    local |= uint32_t(window == local_window) << i;
    param |= uint32_t(window == param_window) << i;
  }
  shared &= mask, local &= mask, param &= mask;
  const uint32_t global = mask & ~(shared | local | param);
  if (global) global_lanes<width, count, store>(w, in, global, a);
  for (auto& address : a.of) address &= ~window_mask;
  if (shared) shared_lanes<width, count, store>(w, in, shared, a);
  if (local) w.block->counters->local_requests++;
  each_active(local, [&](int lane) { local_lane<width, count, store>(w, in, a.of[lane], lane); });
  each_active(param, [&](int lane) { param_lane<width, count, store>(w, in, a.of[lane], lane); });
}

template <int width, int count, bool store> Handler in_space(Space space) {
  switch (space) {
    case Space::global: return access_global<width, count, store>;
    case Space::shared: return access_shared<width, count, store>;
    case Space::local: return access_local<width, count, store>;
    case Space::param: return store ? nullptr : access_param<width, count, store>;
    case Space::constant: return store ? nullptr : access_global<width, count, store>;
    case Space::generic: return access_generic<width, count, store>;
    default: return nullptr;
  }
}
template <int width, bool store> Handler of_count(size_t count, Space space) {
  if (count == 1) return in_space<width, 1, store>(space);
  if (count == 2) return in_space<width, 2, store>(space);
  if constexpr (width < 8)
    if (count == 4) return in_space<width, 4, store>(space);
  return nullptr;
}
template <bool store> Handler of_width(size_t width, size_t count, Space space) {
  switch (width) {
    case 1: return of_count<1, store>(count, space);
    case 2: return of_count<2, store>(count, space);
    case 4: return of_count<4, store>(count, space);
    case 8: return of_count<8, store>(count, space);
    default: return nullptr;
  }
}

void decode(Decoder& d) {
  const bool store = d.part(0) == "st";
  const Type type = d.type();
  if (type == Type::none || type == Type::b128) d.unknown();
  d.expect_operands(2);
  auto elements = Decoder::elements(d.operand(store ? 1 : 0));
  uint16_t flags = is_signed(type) && bytes(type) < 8 ? sign_extend : 0;
  if (bytes(type) < 8 && d.is_wide(elements[0])) flags |= into_wide;
  if (d.has("volatile") || d.has("relaxed") || d.has("acquire") || d.has("release") || d.has("mmio")) flags |= strong;
  if (d.has("release")) flags |= releases;
  const Type in_register = flags & into_wide ? Type::b64 : type;
  if (bytes(type) == 4 && !(flags & into_wide)) flags &= uint16_t(~sign_extend);
  if (!store)
    for (auto e : elements) d.target(e, in_register);
  const Space space = d.address(d.operand(store ? 0 : 1), d.space());
  if (store)
    for (auto e : elements) d.source(e, in_register);
  d.in.aux |= flags;
  if (store) d.in.aux &= uint16_t(~sign_extend);
  if (space == Space::shared || space == Space::generic) d.note_shared_access(bytes(type) * elements.size());
  d.emit(store ? of_width<true>(bytes(type), elements.size(), space) : of_width<false>(bytes(type), elements.size(), space));
}

void decode_prefetch(Decoder& d) {
  if (d.part(0) == "discard") d.unknown();
  d.emit([](Warp&, const Instruction&, uint32_t) {});
}

}  // namespace

void add_memory(Table& t) {
  t["ld"] = t["st"] = t["ldu"] = decode;
  t["prefetch"] = t["prefetchu"] = t["discard"] = t["applypriority"] = decode_prefetch;
}

}  // namespace ptxemu
