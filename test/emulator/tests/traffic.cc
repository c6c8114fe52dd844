// The counters against figures worked out by hand: sectors of 32 bytes, banks of 4 bytes (64-bit accesses go by half warps, 128-bit ones by
// quarter warps), instructions, floating-point operations, tensor-core products.
#include "device.h"

namespace ptxemu::test {
namespace {

// One warp; %r1 = byte offset of the lane from `address`, %rd1 = the global address there, %r2 = the shared one.
KernelCounters counted(const std::string& address, const std::string& body, uint32_t threads = 32) {
  Device device(
      text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 128 .b8 words[8192];\n", own_word, "  ld.param.u64 %rd0, [out];\n",
           address, "  cvt.u64.u32 %rd1, %r1;\n  add.s64 %rd1, %rd1, %rd0;\n  mov.u32 %r2, words;\n  add.u32 %r2, %r2, %r1;\n", body,
           "  ret;\n}\n"),
      80);
  device.options.uninitialised = device.options.races = false;
  device.launch("k", {}, {threads}, device.allocate(8192));
  return device.counters.kernels.at("k");
}
std::string stride(int bytes) { return text("  mul.lo.u32 %r1, %r0, ", bytes, ";\n"); }
const std::string reversed = "  xor.b32 %r1, %r0, 31;\n  mul.lo.u32 %r1, %r1, 4;\n";

void global_memory() {
  struct Row {
    const char* name;
    std::string address, type;
    int registers;
    uint32_t threads;
    uint64_t sectors, bytes;
  };
  const Row rows[] = {
      {"neighbouring words", stride(4), "u32", 1, 32, 4, 128},
      {"neighbouring words, one word off", stride(4) + "  add.u32 %r1, %r1, 4;\n", "u32", 1, 32, 5, 128},
      {"neighbouring words in reverse", reversed, "u32", 1, 32, 4, 128},
      {"every second word", stride(8), "u32", 1, 32, 8, 128},
      {"one word of each sector", stride(32), "u32", 1, 32, 32, 128},
      {"one word of every other sector", stride(64), "u32", 1, 32, 32, 128},
      {"the same word", stride(0), "u32", 1, 32, 1, 128},
      {"half of a warp", stride(4), "u32", 1, 16, 2, 64},
      {"neighbouring bytes", stride(1), "u8", 1, 32, 1, 32},
      {"neighbouring halves", stride(2), "u16", 1, 32, 2, 64},
      {"neighbouring doubles", stride(8), "v2.u32", 2, 32, 8, 256},
      {"neighbouring vectors of 16 bytes", stride(16), "v4.u32", 4, 32, 16, 512},
      {"vectors of 16 bytes in each sector", stride(32), "v4.u32", 4, 32, 32, 512},
  };
  for (const Row& r : rows)
    test_case(text("sectors of ", r.name), [r] {
      const std::string registers = r.registers == 1 ? "%r3" : r.registers == 2 ? "{%r3, %r4}" : "{%r3, %r4, %r5, %r6}";
      const KernelCounters load = counted(r.address, text("  ld.global.", r.type, " ", registers, ", [%rd1];\n"), r.threads);
      EXPECT(load.global_load_sectors == r.sectors && load.global_load_bytes == r.bytes && load.global_requests == 1 &&
                 load.global_store_sectors == 0,
             "load: ", load.global_load_sectors, " sectors, ", load.global_load_bytes, " bytes, ", load.global_requests, " requests");
      const KernelCounters store = counted(r.address, text("  st.global.", r.type, " [%rd1], ", registers, ";\n"), r.threads);
      EXPECT(store.global_store_sectors == r.sectors && store.global_store_bytes == r.bytes && store.global_requests == 1 &&
                 store.global_load_sectors == 0,
             "store: ", store.global_store_sectors, " sectors, ", store.global_store_bytes, " bytes, ", store.global_requests, " requests");
    });
}

void shared_memory() {
  struct Row {
    const char* name;
    std::string address, access;
    uint64_t passes, conflicts;
  };
  const std::string word = "  ld.shared.u32 %r3, [%r2];\n", two = "  ld.shared.v2.u32 {%r3, %r4}, [%r2];\n",
                    four = "  ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r2];\n";
  const std::string matrices = "  ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [%r2];\n";
  const Row rows[] = {
      {"neighbouring words", stride(4), word, 1, 0},
      {"neighbouring words in reverse", reversed, word, 1, 0},
      {"the same word", stride(0), word, 1, 0},
      {"every second word: 2-way", stride(8), word, 1, 1},
      {"every third word", stride(12), word, 1, 0},
      {"every fourth word: 4-way", stride(16), word, 1, 3},
      {"a column of 32: 32-way", stride(128), word, 1, 31},
      {"a column of 33", stride(132), word, 1, 0},
      {"neighbouring halves", stride(2), "  ld.shared.u16 %r3, [%r2];\n", 1, 0},
      {"halves of a column of 64: 32-way", stride(128), "  st.shared.u16 [%r2], %r0;\n", 1, 31},
      {"a store of every second word: 2-way", stride(8), "  st.shared.u32 [%r2], %r0;\n", 1, 1},
      {"neighbouring doubles", stride(8), two, 2, 0},
      {"every second double: 2-way in each half", stride(16), two, 2, 2},
      {"neighbouring vectors of 16 bytes", stride(16), four, 4, 0},
      {"every second vector of 16 bytes: 2-way in each quarter", stride(32), four, 4, 4},
      {"vectors of a column of 128 bytes: 8-way in each quarter", stride(128), four, 4, 28},
      {"matrices of neighbouring rows", stride(16), matrices, 4, 0},
      {"matrices of rows at 128 bytes: 8-way", stride(128), matrices, 4, 28},
      {"matrices of rows at 144 bytes", stride(144), matrices, 4, 0},
      {"matrices of rows at 64 bytes: 4-way", stride(64), matrices, 4, 12},
  };
  for (const Row& r : rows)
    test_case(text("banks of ", r.name), [r] {
      const KernelCounters c = counted(r.address, r.access);
      EXPECT(c.shared_requests == 1 && c.shared_passes == r.passes && c.shared_conflicts == r.conflicts, c.shared_requests, " requests, ",
             c.shared_passes, " passes, ", c.shared_conflicts, " conflicts");
    });
}

void instructions() {
  struct Row {
    const char* text;
    uint64_t flops;
  };  // of one warp of 32 threads
  for (const Row& r : {Row{"add.f32 %r3, %r3, %r4;", 32},
                       {"mul.f32 %r3, %r3, %r4;", 32},
                       {"fma.rn.f32 %r3, %r3, %r4, %r5;", 64},
                       {"add.s32 %r3, %r3, %r4;", 0},
                       {"fma.rn.f16x2 %r3, %r3, %r4, %r5;", 128},
                       {"mul.f16x2 %r3, %r3, %r4;", 64},
                       {"add.f16 %h3, %h3, %h4;", 32},
                       {"fma.rn.f64 %rd3, %rd3, %rd4, %rd5;", 64}})
    test_case(text("operations of ", r.text), [r] {
      const KernelCounters c = counted(stride(0), text("  ", r.text, "\n"));
      EXPECT(c.flops == r.flops, c.flops, " operations");
    });
  test_case("warps, blocks, launches and instructions", [] {
    Device device(
        ".visible .entry k()\n{\n  .reg .pred %p;\n  .reg .b32 %r<2>;\n  mov.u32 %r0, %tid.x;\n  setp.lt.u32 %p, %r0, 8;\n"
        "  @%p add.u32 %r1, %r0, 1;\n"
        "  bar.sync 0;\n  ret;\n}\n");
    for (int i = 0; i < 2; i++) device.launch("k", {3}, {40});
    const KernelCounters c = device.counters.kernels.at("k");
    EXPECT(c.launches == 2 && c.blocks == 6 && c.warps == 12 && c.barriers == 12, c.launches, ", ", c.blocks, ", ", c.warps, ", ",
           c.barriers);
    // mov, setp, bar and ret by 40 threads, add by 8; the second warp does not execute add in one lane.
    EXPECT(c.thread_instructions == 6 * (4 * 40 + 8), c.thread_instructions, " instructions of threads");
    EXPECT(c.warp_instructions >= 6 * 9 && c.warp_instructions <= 6 * 10, c.warp_instructions, " instructions of warps");
    const std::string json = device.counters.json();
    EXPECT(json.find("\"k\"") != std::string::npos && json.find("\"warps\": 12") != std::string::npos, json);
  });
  test_case("lanes that have met again execute as one warp", [] {
    std::string adds;
    for (int i = 0; i < 100; i++) adds += "  add.u32 %r3, %r3, 1;\n";
    const std::string body =
        "  and.b32 %r4, %r0, 3;\nTARGETS: .branchtargets A, B, C, D;\n  brx.idx %r4, TARGETS;\nA:\n  add.u32 %r3, %r3, 1;\n"
        "  bra JOIN;\nB:\n  add.u32 %r3, %r3, 2;\n  bra JOIN;\nC:\n  add.u32 %r3, %r3, 3;\n  bra JOIN;\nD:\n"
        "  add.u32 %r3, %r3, 4;\nJOIN:\n";
    const KernelCounters c = counted(stride(4), body + adds);
    EXPECT(c.warp_instructions > 100 && c.warp_instructions < 140, c.warp_instructions, " instructions of warps");
  });
  test_case("mma.m16n8k16 counts as two products", [] {
    const KernelCounters c =
        counted(stride(0),
                "  mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r3, %r4, %r5, %r6}, {%r0, %r0, %r0, %r0}, {%r0, %r0}, "
                "{%r7, %r7, %r7, %r7};\n");
    EXPECT(c.mma_k8 == 2, c.mma_k8, " products");
  });
  struct Special {
    const char* text;
    uint64_t count;
  };
  for (const Special& s : {Special{"ex2.approx.f32 %r3, %r4;", 1},
                           {"rcp.approx.ftz.f32 %r3, %r4;", 1},
                           {"div.full.f32 %r3, %r4, %r5;", 1},
                           {"cvt.rn.f16.f32 %h3, %r4;", 1},
                           {"cvt.rn.f32.s32 %r3, %r4;", 1},
                           {"cvt.rzi.u32.f32 %r3, %r4;", 1},
                           {"cvt.f32.f16 %r3, %h4;", 0},
                           {"cvt.u32.u16 %r3, %h4;", 0},
                           {"mul.f32 %r3, %r3, %r4;", 0}})
    test_case(text("special functions and conversions of ", s.text), [s] {
      const KernelCounters c = counted(stride(0), text("  ", s.text, "\n"));
      EXPECT(c.special == s.count, c.special, " counted");
    });
  test_case("local memory and atomics are counted", [] {
    const KernelCounters c = counted(stride(4),
                                     "  .local .align 4 .b8 depot[8];\n  st.local.u32 [depot], %r0;\n  ld.local.u32 %r3, [depot];\n"
                                     "  red.shared.add.u32 [%r2], 1;\n  atom.global.add.u32 %r3, [%rd1], 1;\n");
    EXPECT(c.local_requests == 2 && c.atomics == 2, c.local_requests, " local requests, ", c.atomics, " atomics");
  });
  test_case("the counters can be switched off", [] {
    Device device(".visible .entry k()\n{\n  ret;\n}\n");
    device.options.counters = false;
    device.launch("k", {}, {32});
    EXPECT(device.counters.kernels.empty(), "something was counted");
  });
}

}  // namespace

SUITE(traffic) {
  global_memory();
  shared_memory();
  instructions();
}

}  // namespace ptxemu::test
