// Counters of launches of which only some blocks run (Options::sample): against the counters of all blocks.
#include "../warp/sample.h"

#include <cmath>
#include <set>

#include "device.h"

namespace ptxemu::test {
namespace {

// out[i] = in[i] by way of shared memory, for i < count; 64 threads.
const std::string copy_kernel = R"(.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 count)
{
  .reg .pred %p;
  .reg .b32 %r<9>;
  .reg .b64 %rd<4>;
  .shared .align 4 .b8 tile[256];
  ld.param.u64 %rd0, [in];
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r8, [count];
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %nctaid.x;
  mov.u32 %r3, %ctaid.y;
  mad.lo.u32 %r1, %r2, %r3, %r1;
  mad.lo.u32 %r1, %r1, 64, %r0;
  setp.ge.u32 %p, %r1, %r8;
  @%p ret;
  mad.wide.u32 %rd0, %r1, 4, %rd0;
  mad.wide.u32 %rd1, %r1, 4, %rd1;
  ld.global.u32 %r4, [%rd0];
  mov.u32 %r5, tile;
  mad.lo.u32 %r5, %r0, 4, %r5;
  st.shared.u32 [%r5], %r4;
  ld.shared.u32 %r6, [%r5];
  st.global.u32 [%rd1], %r6;
  ret;
}
)";

// Every block turns as often as its number says.
const std::string slope_kernel = R"(.visible .entry k()
{
  .reg .pred %p;
  .reg .b32 %r<2>;
  mov.u32 %r0, %ctaid.x;
  mov.u32 %r1, 0;
NEXT:
  add.u32 %r1, %r1, 1;
  setp.lt.u32 %p, %r1, %r0;
  @%p bra NEXT;
  ret;
}
)";

std::string with(const std::string& parameters, const std::string& body) {
  return ".visible .entry k(" + parameters + ")\n{\n  .reg .b32 %r<8>;\n  .reg .b64 %rd<8>;\n" + body + "  ret;\n}\n";
}

KernelCounters copied(Device& device, Dim3 grid, uint32_t count, int n) {
  device.options.sample = n;
  const uint64_t in = device.upload(std::vector<uint32_t>(count)), out = device.upload(std::vector<uint32_t>(count));
  device.counters = {};
  device.launch("k", grid, {64}, in, out, count);
  return device.counters.kernels.at("k");
}

SUITE(samples) {
  struct Row {
    Dim3 grid;
    int n;
  };
  for (const Row& r : {Row{{1}, 4}, {{2}, 4}, {{3}, 100}, {{1000}, 10}, {{7, 3}, 2}, {{33, 5, 3}, 8}, {{64, 64}, 16}, {{1, 1, 50}, 5}})
    test_case(text("which blocks of ", r.grid.x, "x", r.grid.y, "x", r.grid.z, " run, one in ", r.n), [r] {
      const Sample sample = sample_of(r.grid, r.n);
      uint64_t blocks = 0, run = 0;
      for (const Sample::Part& part : sample.parts) {
        blocks += part.blocks, run += part.run;
        const uint64_t least = std::min<uint64_t>(part.blocks, 2);
        EXPECT(part.run >= least && part.run <= std::max<uint64_t>(least, part.blocks / uint64_t(r.n) + 1), part.run, " of ", part.blocks);
      }
      std::vector<uint64_t> picked(sample.parts.size());
      std::set<uint64_t> different;
      for (const Sample::Pick& pick : sample.picks) picked.at(pick.part)++, different.insert(pick.block);
      for (size_t i = 0; i < picked.size(); i++) EXPECT(picked[i] == sample.parts[i].run, picked[i], " picked of part ", i);
      EXPECT(blocks == r.grid.count() && different.size() == run, blocks, " blocks, ", different.size(), " of ", run, " picks");
      EXPECT(*different.begin() == 0 && *different.rbegin() == blocks - 1, "from ", *different.begin(), " to ", *different.rbegin());
    });

  for (const Row& r : {Row{{100}, 10}, {{12, 9}, 4}, {{5}, 3}})
    test_case(text("blocks that do the same, the last one cut off: the counts of ", r.grid.x, "x", r.grid.y, " are exact"), [r] {
      const auto count = uint32_t(r.grid.count() * 64 - 10);
      Device device(copy_kernel);
      const KernelCounters all = copied(device, r.grid, count, 1);
      KernelCounters some = copied(device, r.grid, count, r.n);
      EXPECT(all.blocks_run == r.grid.count() && some.blocks_run < all.blocks_run, some.blocks_run, " of ", all.blocks_run, " blocks");
      some.blocks_run = all.blocks_run;
      EXPECT(some.json() == all.json(), "expected ", all.json(), " but received ", some.json());
    });
  test_case("blocks with more and more to do: the estimate is within 1 %", [] {
    Device device(slope_kernel);
    device.launch("k", {2000}, {32});
    const auto all = double(device.counters.kernels.at("k").warp_instructions);
    device.options.sample = 20;
    device.counters = {};
    device.launch("k", {2000}, {32});
    const auto some = double(device.counters.kernels.at("k").warp_instructions);
    EXPECT(std::abs(some / all - 1) < 0.01, some, " instead of ", all);
  });
  test_case("the same blocks run in every order and on every number of threads", [] {
    std::string first;
    for (Order order : {Order::forward, Order::backward, Order::random})
      for (int threads : {1, 3}) {
        Device device(copy_kernel);
        device.options.block_order = order;
        device.options.threads = threads;
        const std::string json = copied(device, {40, 7}, 40 * 7 * 64, 9).json();
        if (first.empty()) first = json;
        EXPECT(json == first, "expected ", first, " but received ", json);
      }
  });
  test_case("a launch that differs in addresses only is counted and not run again", [] {
    Device device(copy_kernel);
    const uint32_t count = 20 * 64;
    const uint64_t in = device.upload(std::vector<uint32_t>(count, 7)), out = device.upload(std::vector<uint32_t>(count));
    const uint64_t other = device.upload(std::vector<uint32_t>(count));
    device.options.sample = 5;
    device.launch("k", {20}, {64}, in, out, count);
    const KernelCounters once = device.counters.kernels.at("k");
    device.launch("k", {20}, {64}, in, other, count);
    const KernelCounters twice = device.counters.kernels.at("k");
    EXPECT(twice.launches == 2 && twice.global_load_sectors == 2 * once.global_load_sectors, twice.json());
    EXPECT(device.download<uint32_t>(out, 1)[0] == 7 && device.download<uint32_t>(other, 1)[0] == 0, "it ran");
    device.launch("k", {20}, {64}, in, other, count - 1);
    EXPECT(device.download<uint32_t>(other, 1)[0] == 7, "another scalar is another launch");
    device.launch("k", {20}, {64}, in, other + 4, count - 2);
    const uint64_t sectors = device.counters.kernels.at("k").global_store_sectors;
    device.launch("k", {20}, {64}, in, other, count - 2);
    EXPECT(device.counters.kernels.at("k").global_store_sectors - sectors < sectors - twice.global_store_sectors, "another alignment too");
  });

  test_case("what the blocks that did not run leave unwritten may be read", [] {
    Device device(copy_kernel);
    const uint32_t count = 50 * 64;
    const uint64_t in = device.allocate(4 * count), out = device.allocate(4 * count);
    expect_error(ErrorKind::uninitialised, [&] { device.launch("k", {50}, {64}, in, out, count); });
    device.options.sample = 5;
    device.launch("k", {50}, {64}, in, out, count);
  });
  test_case("bounds and shared memory are checked in the blocks that run", [] {
    Device device(copy_kernel);
    device.options.sample = 5;
    const uint64_t small = device.upload(std::vector<uint32_t>(64));
    expect_error(ErrorKind::out_of_bounds, [&] { device.launch("k", {50}, {64}, small, small, uint32_t(50 * 64)); });
    Device unwritten(with("", "  .shared .align 4 .b8 tile[4];\n  ld.shared.u32 %r0, [tile];\n"));
    unwritten.options.sample = 2;
    expect_error(ErrorKind::uninitialised, [&] { unwritten.launch("k", {9}, {32}); });
  });
  test_case("blocks that speak to each other cannot be sampled", [] {
    for (const char* access : {"red.global.add.u32 [%rd0], 1;", "atom.global.add.u32 %r0, [%rd0], 1;",
                               "ld.volatile.global.u32 %r0, [%rd0];", "st.release.gpu.global.u32 [%rd0], 1;"}) {
      Device device(with(".param .u64 out", text("  ld.param.u64 %rd0, [out];\n  ", access, "\n")));
      device.options.sample = 2;
      const uint64_t out = device.upload(std::vector<uint32_t>(1));
      const Error e = expect_error(ErrorKind::limit, [&] { device.launch("k", {9}, {32}, out); });
      EXPECT(std::string(e.what()).find("cannot be sampled") != std::string::npos, e.what());
    }
  });
  test_case("a sample without counters is refused", [] {
    Device device(slope_kernel);
    device.options.sample = 2;
    device.options.counters = false;
    expect_error(ErrorKind::limit, [&] { device.launch("k", {9}, {32}); });
  });
}

}  // namespace
}  // namespace ptxemu::test
