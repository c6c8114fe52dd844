// Orders of warps and blocks, numbers of host threads, seeds: what is right gives the same bits under all of them, and they really differ.
#include "device.h"

namespace ptxemu::test {
namespace {

struct Setting {
  Order warps, blocks;
  uint64_t seed;
  int threads;
};
const Setting settings[] = {{Order::forward, Order::forward, 0, 1}, {Order::backward, Order::backward, 0, 1},
                            {Order::random, Order::random, 1, 1},   {Order::random, Order::random, 2, 2},
                            {Order::forward, Order::forward, 0, 2}, {Order::backward, Order::random, 3, 4}};

template <class T> std::vector<std::vector<T>> under_all_settings(const std::string& body, Dim3 grid, Dim3 block, size_t count) {
  std::vector<std::vector<T>> all;
  for (const Setting& s : settings) {
    Device device(body);
    device.options.warp_order = s.warps;
    device.options.block_order = s.blocks;
    device.options.seed = s.seed;
    device.options.threads = s.threads;
    const uint64_t out = device.upload(std::vector<T>(count));
    device.launch("k", grid, block, out);
    all.push_back(device.download<T>(out, count));
  }
  return all;
}

// A block of 256 sums 1 / (1 + thread) as a tree: shuffles, then shared memory; the last thread adds the block's number.
const std::string tree_sum = text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 4 .b8 sums[32];\n", own_word, R"(
  ld.param.u64 %rd0, [out];
  mov.u32 %r7, %ctaid.x;
  mad.wide.u32 %rd0, %r7, 4, %rd0;
  add.u32 %r1, %r0, 1;
  cvt.rn.f32.u32 %r1, %r1;
  rcp.rn.f32 %r1, %r1;
  mov.u32 %r2, 16;
LEVEL:
  shfl.sync.bfly.b32 %r3, %r1, %r2, 31, 0xffffffff;
  add.f32 %r1, %r1, %r3;
  shr.u32 %r2, %r2, 1;
  setp.ne.u32 %p1, %r2, 0;
  @%p1 bra LEVEL;
  and.b32 %r4, %r0, 31;
  setp.ne.u32 %p2, %r4, 0;
  shr.u32 %r5, %r0, 3;
  mov.u32 %r6, sums;
  add.u32 %r5, %r5, %r6;
  @!%p2 st.shared.f32 [%r5], %r1;
  bar.sync 0;
  setp.ne.u32 %p3, %r0, 0;
  @%p3 ret;
  cvt.rn.f32.u32 %r8, %r7;
  mov.u32 %r2, 0;
NEXT:
  ld.shared.f32 %r3, [%r6];
  add.f32 %r8, %r8, %r3;
  add.u32 %r6, %r6, 4;
  add.u32 %r2, %r2, 1;
  setp.lt.u32 %p1, %r2, 8;
  @%p1 bra NEXT;
  st.global.f32 [%rd0], %r8;
  ret;
}
)");

float expected_sum(uint32_t block) {
  float total = float(block);
  for (int warp = 0; warp < 8; warp++) {
    float lanes[32], next[32];
    for (int i = 0; i < 32; i++) lanes[i] = 1.0f / float(warp * 32 + i + 1);
    for (int step = 16; step; step /= 2) {
      for (int i = 0; i < 32; i++) next[i] = lanes[i] + lanes[i ^ step];
      std::copy(next, next + 32, lanes);
    }
    total += lanes[0];
  }
  return total;
}

// Every thread takes a ticket: who comes first depends on the order.
const std::string tickets =
    text(".global .align 4 .u32 counter;\n.visible .entry k(.param .u64 out)\n{\n", own_word,
         "  mov.u32 %r7, %ctaid.x;\n  mad.wide.u32 %rd0, %r7, 256, %rd0;\n  atom.global.add.u32 %r1, [counter], 1;\n"
         "  st.global.u32 [%rd0], %r1;\n  ret;\n}\n");

}  // namespace

SUITE(orders) {
  test_case("a sum in a fixed order has the same bits under every order of warps and blocks", [] {
    for (const std::vector<float>& sums : under_all_settings<float>(tree_sum, {9}, {256}, 9))
      expect_each(sums, [](size_t block) { return expected_sum(uint32_t(block)); }, "block");
  });
  test_case("the orders of warps and blocks are what they say", [] {
    const auto all = under_all_settings<uint32_t>(tickets, {4}, {64}, 256);
    EXPECT(all[0][0] == 0 && all[0][255] == 255, "forward: the first thread has ticket ", all[0][0]);
    EXPECT(all[1][255 - 31] == 0 && all[1][0] == 255 - 31, "backward: the last warp's first lane has ticket ", all[1][255 - 31]);
    EXPECT(all[2] != all[0] && all[2] != all[1] && all[2] != all[3], "random orders are those of others");
  });
  test_case("a seed gives the same random order again", [] {
    std::vector<uint32_t> first;
    for (int i = 0; i < 3; i++) {
      Device device(tickets);
      device.options.warp_order = device.options.block_order = Order::random;
      device.options.seed = i < 2 ? 11 : 12;
      device.options.threads = 1;
      const uint64_t out = device.upload(std::vector<uint32_t>(1024));
      device.launch("k", {16}, {64}, out);
      const std::vector<uint32_t> now = device.download<uint32_t>(out, 1024);
      if (i == 0) first = now;
      EXPECT((now == first) == (i < 2), "run ", i);
    }
  });
}

}  // namespace ptxemu::test
