// Barriers of blocks and warps, fences: bar.sync with ids and counts, bar.arrive, bar.red, barrier.sync, bar.warp.sync, membar.
// PTX ISA 9.0, "Parallel Synchronization and Communication Instructions".
// Every case passes words between warps through shared memory: without the barrier it would be a race.
#include "device.h"

namespace ptxemu::test {
namespace {

// 128 threads; %r9 = shared address of the own word, %r0 = tid; the body leaves its result in %r1.
std::string kernel(const std::string& body) {
  return text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 16 .b8 words[512];\n", own_word,
              "  mov.u32 %r8, words;\n  mad.lo.u32 %r9, %r0, 4, %r8;\n", body, "  st.global.u32 [%rd0], %r1;\n  ret;\n}\n");
}
// Write the own word, meet, read the word of thread tid ^ 96.
void exchange(const std::string& name, const std::string& barrier, const std::string& before = "") {
  test_case(name, [=] {
    for (const Order order : {Order::forward, Order::backward, Order::random}) {
      Device device(kernel(text(before, "  mul.lo.u32 %r2, %r0, 3;\n  st.shared.u32 [%r9], %r2;\n", barrier,
                                "  xor.b32 %r3, %r0, 96;\n  mad.lo.u32 %r3, %r3, 4, %r8;\n  ld.shared.u32 %r1, [%r3];\n")));
      device.options.warp_order = order;
      expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t i) { return uint32_t(i ^ 96) * 3; }, "thread");
    }
  });
}

}  // namespace

SUITE(barriers) {
  exchange("bar.sync 0", "  bar.sync 0;\n");
  exchange("bar.sync of a register", "  bar.sync %r4;\n", "  mov.u32 %r4, 5;\n");
  exchange("bar.sync 15 with a count", "  bar.sync 15, 128;\n");
  exchange("bar.cta.sync", "  bar.cta.sync 1;\n");
  exchange("barrier.sync", "  barrier.sync 2;\n");
  exchange("barrier.sync.aligned with a count", "  barrier.sync.aligned 3, 128;\n");
  exchange("barrier.sync of lanes that have diverged",
           "  setp.lt.u32 %p1, %r0, 50;\n  @%p1 bra LOW;\n  barrier.sync 1;\n  bra READ;\nLOW:\n  barrier.sync 1;\nREAD:\n");
  exchange("bar.arrive and bar.sync pair by pair",
           "  setp.lt.u32 %p1, %r0, 64;\n  @%p1 bra LOW;\n  bar.arrive 1, 128;\n  bar.sync 2, 128;\n  bra READ;\nLOW:\n  bar.sync 1, 128;\n"
           "  bar.arrive 2, 128;\nREAD:\n");
  exchange("fences beside the barrier",
           "  membar.cta;\n  membar.gl;\n  fence.acq_rel.gpu;\n  fence.sc.cta;\n  bar.sync 0;\n  membar.sys;\n");
  exchange("two halves of the block meet at barriers of their own, then all of them",
           "  shr.u32 %r5, %r0, 6;\n  add.u32 %r5, %r5, 1;\n  bar.sync %r5, 64;\n  bar.sync 0;\n");

  test_case("prefetches, pauses and fences change nothing", [] {
    Device device(
        kernel("  mov.u32 %r1, 4;\n  prefetch.global.L2 [%rd0];\n  prefetch.global.L1 [%rd0];\n  nanosleep.u32 100;\n"
               "  fence.acq_rel.sys;\n  membar.cta;\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t) { return 4u; });
  });
  test_case("a hundred rounds through one barrier", [] {
    Device device(kernel(
        "  mov.u32 %r1, 0;\n  mov.u32 %r2, 0;\nTOP:\n  add.u32 %r3, %r2, %r0;\n  st.shared.u32 [%r9], %r3;\n  bar.sync 0;\n"
        "  xor.b32 %r4, %r0, 32;\n  mad.lo.u32 %r4, %r4, 4, %r8;\n  ld.shared.u32 %r5, [%r4];\n  add.u32 %r1, %r1, %r5;\n  bar.sync 0;\n"
        "  add.u32 %r2, %r2, 1;\n  setp.lt.u32 %p1, %r2, 100;\n  @%p1 bra TOP;\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t i) { return uint32_t(4950 + 100 * (i ^ 32)); });
    EXPECT(device.counters.kernels["k"].barriers == 4 * 200, "barriers = ", device.counters.kernels["k"].barriers);
  });
  test_case("warps that have ended are not waited for", [] {
    Device device(kernel(
        "  mov.u32 %r1, 1;\n  st.global.u32 [%rd0], %r1;\n  setp.ge.u32 %p1, %r0, 64;\n  @%p1 ret;\n  bar.sync 0;\n  mov.u32 %r1, 2;\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t i) { return i < 64 ? 2u : 1u; });
  });
  test_case("bar.red counts, ands and ors", [] {
    Device device(kernel(
        "  setp.lt.u32 %p1, %r0, 77;\n  bar.red.popc.u32 %r1, 0, %p1;\n  bar.red.and.pred %p2, 0, %p1;\n  bar.red.or.pred %p3, 0, !%p1;\n"
        "  @%p2 add.u32 %r1, %r1, 1000;\n  @%p3 add.u32 %r1, %r1, 2000;\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t) { return 2077u; });
    Device yes(kernel(
        "  setp.lt.u32 %p1, %r0, 128;\n  bar.red.and.pred %p2, 0, %p1;\n  bar.red.or.pred %p3, 0, !%p1;\n  selp.u32 %r1, 1, 0, %p2;\n"
        "  @%p3 add.u32 %r1, %r1, 2;\n"));
    expect_each(results_of<uint32_t>(yes, {128}, 128), [](size_t) { return 1u; });
  });
  test_case("bar.warp.sync orders the lanes of a warp", [] {
    Device device(
        kernel("  st.shared.u32 [%r9], %r0;\n  bar.warp.sync 0xffffffff;\n  xor.b32 %r2, %r0, 5;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n"
               "  ld.shared.u32 %r1, [%r2];\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t i) { return uint32_t(i ^ 5); });
  });
  test_case("bar.warp.sync of a part of the warp", [] {
    Device device(
        kernel("  and.b32 %r2, %r0, 16;\n  setp.eq.u32 %p1, %r2, 0;\n  mov.u32 %r1, 3;\n  @!%p1 bra OUT;\n  st.shared.u32 [%r9], %r0;\n"
               "  bar.warp.sync 0x0000ffff;\n  xor.b32 %r2, %r0, 1;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  ld.shared.u32 %r1, [%r2];\nOUT:\n"));
    expect_each(results_of<uint32_t>(device, {128}, 128), [](size_t i) { return i & 16 ? 3 : uint32_t(i ^ 1); });
  });
}

}  // namespace ptxemu::test
