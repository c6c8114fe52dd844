// Hazards in shared memory. Every unit, the smallest access of the kernel, has two cells: who wrote it last and who read it, and when.
// A cell = stamp << 12 | flags << 10 | thread, 0 = never. The stamp is the block's clock at the thread's last synchronisation; the access
// happened before those of warp w iff stamp <= w.seen[its warp] (vector clocks: Lamport 1978, Mattern 1988; FastTrack, PLDI 2009).
// Lanes of one warp are ordered by bar.warp.sync and barriers only, not by the order in which they happen to run.
#pragma once
#include "../warp/warp.h"

namespace ptxemu {

// Strong: .volatile, .relaxed, .acquire, .release.
enum class Access : uint8_t { read, write, atomic, strong_read, strong_write };
constexpr bool writes(Access a) { return a == Access::write || a == Access::atomic || a == Access::strong_write; }
constexpr bool is_strong(Access a) { return a >= Access::atomic; }

constexpr int stamp_shift = 12;
constexpr int32_t last_stamp = 0x7fffe, in_flight = 0x7ffff;  // in flight: cp.async has been issued and not been waited for
constexpr int32_t several_lanes = 1 << 10, several_warps = 2 << 10, by_atomic = 1 << 10;

void restart_clock(Block& block);  // when stamps run out, at a barrier of the whole block

// The precise check of one access, cell by cell, after the quick ones below have found something. `data`: what is to be written.
void check_shared_precisely(Warp& w, uint32_t offset, uint32_t bytes, int lane, Access access, const void* data);
void mark_shared_in_flight(Warp& w, uint32_t offset, uint32_t bytes, int lane);

// Accesses cells [0, n) by threads thread_of(0) ... thread_of(n - 1) of the warp, and with `flag` = several_lanes by other lanes too; true
// = perhaps a hazard, then that cell is left as it was.
template <bool write, class Thread> inline __attribute__((always_inline)) bool scan_cells(Warp& w, int32_t* __restrict written,
                                                                                          int32_t* __restrict read, int n, Thread thread_of,
                                                                                          int32_t flag = 0) {
  const int32_t unordered = w.seen_of_all << stamp_shift | 0xfff, now = w.stamp << stamp_shift, warp = w.id << 5;
  int32_t hazards = 0;
#pragma GCC ivdep
  for (int i = 0; i < n; i++) {
    const int32_t thread = thread_of(i), me = now | flag | thread, x = written[i], r = read[i];
    const bool other_warp_wrote = (x > unordered) & ((x & 0x3e0) != warp);
    const bool other_lane_wrote = (x >= now) & (((x & 0x3ff) != thread) | (flag != 0));
    bool hazard = other_warp_wrote | other_lane_wrote | (x >= in_flight << stamp_shift);
    if constexpr (write) {
      const bool others_read = (r > unordered) & (((r & 0x3e0) != warp) | ((r & several_warps) != 0));
      const bool lanes_read = (r >= now) & (((r & 0x3ff) != thread) | ((r & several_lanes) != 0));
      hazard |= others_read | lanes_read;
      written[i] = hazard ? x : me;
    } else {
      hazard |= x == 0;
      const bool fresh = r <= unordered, warps = ((r & 0x3e0) != warp) | ((r & several_warps) != 0);
      const bool lanes = (r >= now) & (((r & 0x3ff) != thread) | ((r & several_lanes) != 0));
      const int32_t later = r > me ? r : me;
      read[i] = fresh ? me : warps ? later | several_warps : lanes ? me | several_lanes : me;
    }
    hazards |= hazard;
  }
  return hazards != 0;
}

// One access of one lane.
template <Access access> inline void check_shared(Warp& w, uint32_t offset, uint32_t bytes, int lane, const void* data = nullptr) {
  Block& b = *w.block;
  const uint32_t unit = uint32_t(b.program->shadow_unit), first = offset / unit;
  const int n = int(bytes / unit), thread = w.id << 5 | lane;
  int32_t *written = b.written.data() + first, *read = b.read.data() + first;
  bool hazard = is_strong(access);
  auto me = [thread](int) { return thread; };
  if constexpr (!is_strong(access)) {
    if (n == 8) hazard = scan_cells<access == Access::write>(w, written, read, 8, me);
    else if (n == 4) hazard = scan_cells<access == Access::write>(w, written, read, 4, me);
    else if (n == 1) hazard = scan_cells<access == Access::write>(w, written, read, 1, me);
    else hazard = scan_cells<access == Access::write>(w, written, read, n, me);
  }
  if (hazard) [[unlikely]]
    check_shared_precisely(w, offset, bytes, lane, access, data);
}

// n lanes from `lane` on access neighbouring elements. false = no hazard; true = look precisely, lane by lane.
template <Access access>
inline bool check_shared_run(Warp& w, uint32_t offset, uint32_t bytes_per_lane, int lane, int n, bool repeated = false) {
  Block& b = *w.block;
  const uint32_t unit = uint32_t(b.program->shadow_unit);
  int32_t *written = b.written.data() + offset / unit, *read = b.read.data() + offset / unit;
  const int first = w.id << 5 | lane;
  constexpr bool write = access == Access::write;
  const int32_t flag = repeated ? several_lanes : 0;
  switch (bytes_per_lane / unit) {
    case 1: return scan_cells<write>(w, written, read, n, [first](int i) { return first + i; }, flag);
    case 2: return scan_cells<write>(w, written, read, 2 * n, [first](int i) { return first + (i >> 1); }, flag);
    case 4: return scan_cells<write>(w, written, read, 4 * n, [first](int i) { return first + (i >> 2); }, flag);
    case 8: return scan_cells<write>(w, written, read, 8 * n, [first](int i) { return first + (i >> 3); }, flag);
    default: return true;
  }
}

}  // namespace ptxemu
