// The precise side of checks/shared.h, and its words.
#include "shared.h"

#include <cstdio>

namespace ptxemu {
namespace {

[[noreturn]] void report(Warp& w, const char* what, uint32_t offset, int lane, int other_thread) {
  char text[200];
  if (other_thread >= 0)
    std::snprintf(text, sizeof text, "%s at shared memory offset %u: thread %d and thread %d, no barrier between", what, offset,
                  w.id * 32 + lane, other_thread);
  else
    std::snprintf(text, sizeof text, "%s at shared memory offset %u: thread %d and threads of other warps, no barrier between", what,
                  offset, w.id * 32 + lane);
  fail(w, ErrorKind::race, text, lane);
}

// Did the access of that cell happen before those that this thread makes now?
bool ordered(const Warp& w, int32_t cell, int thread) {
  const int32_t stamp = cell >> stamp_shift, other = cell & 0x3ff;
  if (other >> 5 == w.id) return other == thread || stamp < w.stamp;
  return stamp <= w.seen[other >> 5];
}

}  // namespace

void check_shared_precisely(Warp& w, uint32_t offset, uint32_t bytes, int lane, Access access, const void* data) {
  Block& b = *w.block;
  const uint32_t unit = uint32_t(b.program->shadow_unit);
  const int thread = w.id << 5 | lane;
  const int32_t now = w.stamp << stamp_shift;
  const bool races = b.options->races;
  for (uint32_t at = offset; at < offset + bytes; at += unit) {
    int32_t &written = b.written[at / unit], &read = b.read[at / unit];
    const int32_t x = written;
    if (x >> stamp_shift == in_flight && races) report(w, "access to what cp.async still writes", at, lane, x & 0x3ff);
    if (access != Access::write && access != Access::strong_write && !x && b.options->uninitialised)
      fail(w, ErrorKind::uninitialised, "shared memory offset " + std::to_string(at) + " is read before anything is written there", lane);
    if (!races) {
      if (writes(access)) written = now | thread;
      continue;
    }
    if (access == Access::strong_read) continue;
    if (x && !ordered(w, x, thread) && !(is_strong(access) && (x & by_atomic))) {
      if (access == Access::read) report(w, "read after write", at, lane, x & 0x3ff);
      bool same = access == Access::write && data && !(x & by_atomic) &&
                  !std::memcmp(b.shared.data() + at, static_cast<const char*>(data) + (at - offset), unit);
      if (!same) report(w, is_strong(access) ? "atomic after an ordinary write" : "write after write", at, lane, x & 0x3ff);
    }
    if (access == Access::read) continue;  // the quick check has noted it
    const int32_t r = read;
    if (r >> stamp_shift) {
      if (r & several_warps) {
        if (r >> stamp_shift > w.seen_of_all) report(w, "write after read", at, lane, -1);
      } else if (!ordered(w, r, thread) || ((r & several_lanes) && r >> stamp_shift >= w.stamp && (r & 0x3ff) >> 5 == w.id)) {
        report(w, "write after read", at, lane, r & 0x3ff);
      }
    }
    written = now | thread | (is_strong(access) ? by_atomic : 0);
  }
}

void mark_shared_in_flight(Warp& w, uint32_t offset, uint32_t bytes, int lane) {
  Block& b = *w.block;
  const uint32_t unit = uint32_t(b.program->shadow_unit);
  for (uint32_t at = offset; at < offset + bytes; at += unit) b.written[at / unit] = in_flight << stamp_shift | w.id << 5 | lane;
}

void restart_clock(Block& b) {
  for (auto& cell : b.written) cell = cell ? 1 : 0;
  for (auto& cell : b.read) cell = 0;
  b.clock = 1;
  for (auto& w : b.warps) {
    w.stamp = 1;
    w.seen_of_all = 0;
    for (auto& s : w.seen) s = 0;
  }
}

}  // namespace ptxemu
