// Findings about control flow: barriers in divergent code, collectives by a part of the warp, deadlock, endless loops, trap, assertions.
#include "findings.h"

namespace ptxemu::test {
namespace {

const std::string half = "  setp.lt.u32 %p1, %r0, 16;\n  @!%p1 bra OUT;\n";
const Shape warp{.threads = 32};

void barriers() {
  finding("bar.sync in a branch that half of a warp takes", ErrorKind::divergence, {0}, half + "  bar.sync 0; //!\nOUT:\n", {},
          {"bar.sync"});
  finding("bar.sync under a guard that differs within a warp", ErrorKind::divergence, {0},
          "  setp.lt.u32 %p1, %r0, 16;\n  @%p1 bar.sync 0; //!\n");
  finding(
      "barrier.sync.aligned of lanes that have diverged", ErrorKind::divergence, {-1},
      "  setp.lt.u32 %p1, %r0, 16;\n  @%p1 bra LOW;\n  barrier.sync.aligned 1; //!\n  bra OUT;\nLOW:\n  barrier.sync.aligned 1;\nOUT:\n");
  finding("bar.warp.sync that names lanes that do not come", ErrorKind::divergence, {0},
          half + "  bar.warp.sync 0xffffffff; //!\nOUT:\n  bar.sync 0;\n", warp);
  finding("bar.warp.sync by a lane that it does not name", ErrorKind::divergence, {16}, "  bar.warp.sync 0x0000ffff; //!\n", warp);
  clean("bar.sync in a branch that whole warps take", "  setp.lt.u32 %p1, %r0, 64;\n  @!%p1 bra OUT;\n  bar.sync 1, 64;\nOUT:\n");
  clean("bar.warp.sync of the lanes of a branch", half + "  bar.warp.sync 0x0000ffff;\nOUT:\n", warp);
  finding("a barrier for 40 threads", ErrorKind::barrier, {-2}, "  mov.u32 %r1, 40;\n  bar.sync 1, %r1; //!\n");
  finding("barrier 16", ErrorKind::barrier, {-2}, "  mov.u32 %r1, 16;\n  bar.sync %r1; //!\n");
  finding("warps that expect different numbers at one barrier", ErrorKind::barrier, {-2},
          "  setp.lt.u32 %p1, %r0, 32;\n  selp.u32 %r1, 64, 128, %p1;\n  bar.sync 1, %r1; //!\n");
  finding("a barrier that waits for warps that have ended", ErrorKind::deadlock, {-2},
          "  setp.lt.u32 %p1, %r0, 64;\n  @!%p1 bra OUT;\n  bar.sync 1, 128; //!\nOUT:\n");
  finding("warps that wait at different barriers", ErrorKind::deadlock, {-2},
          "  setp.lt.u32 %p1, %r0, 64;\n  @%p1 bra LOW;\n  bar.sync 1;\n  bar.sync 2;\n  bra OUT;\nLOW:\n  bar.sync 2; //!\n  bar.sync 1;\n"
          "OUT:\n");
  clean("a barrier that needs the whole block but not its ended warps",
        "  setp.lt.u32 %p1, %r0, 64;\n  @!%p1 bra OUT;\n  bar.sync 0;\nOUT:\n");
}

void collectives() {
  struct Collective {
    const char* name;
    std::string text;
  };
  const Collective all[] = {
      {"mma", "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r1, %r2, %r3, %r4}, {%r0, %r0}, {%r0}, {%r0, %r0, %r0, %r0};"},
      {"ldmatrix", "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r8];"},
      {"movmatrix", "movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r0;"},
      {"shfl.sync", "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffffffff;"},
      {"vote.sync", "vote.sync.ballot.b32 %r1, %p1, 0xffffffff;"},
      {"redux.sync", "redux.sync.add.u32 %r1, %r0, 0xffffffff;"},
      {"match.sync", "match.any.sync.b32 %r1, %r0, 0xffffffff;"},
  };
  for (const Collective& c : all) {
    const std::string fill = "  st.shared.u32 [%r9], %r0;\n  bar.sync 0;\n";
    finding(text(c.name, " by half of a warp"), ErrorKind::divergence, {0}, text(fill, half, "  ", c.text, " //!\nOUT:\n"), warp);
    finding(text(c.name, " by a block of 24 threads, guarded"), ErrorKind::divergence, {-1},
            text(fill, "  setp.ne.u32 %p1, %r0, 3;\n  @%p1 ", c.text, " //!\n"), warp);
    clean(text(c.name, " by the whole warp"), text(fill, "  setp.ne.u32 %p1, %r0, 3;\n  ", c.text, "\n"), warp);
  }
  finding("mma by a warp of 24 threads", ErrorKind::divergence, {-1}, text("  ", all[0].text, " //!\n"), {.threads = 24});
  finding("shfl.sync from a lane outside of its mask", ErrorKind::divergence, {15},
          half + "  shfl.sync.down.b32 %r1, %r0, 1, 31, 0x0000ffff; //!\nOUT:\n", warp);
  clean("shfl.sync that stays inside of its mask", half + "  shfl.sync.down.b32 %r1, %r0, 1, 0x100f, 0x0000ffff;\nOUT:\n", warp);
  finding("shfl.sync by a lane that its mask does not name", ErrorKind::divergence, {16},
          "  shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0x0000ffff; //!\n", warp);
  finding("shfl.sync from a lane that has ended", ErrorKind::divergence, {-1},
          "  setp.ge.u32 %p1, %r0, 20;\n  @%p1 ret;\n  shfl.sync.bfly.b32 %r1, %r0, 16, 31, 0x000fffff; //!\n", warp);
}

void ends() {
  finding("trap", ErrorKind::trap, {77}, "  setp.eq.u32 %p1, %r0, 77;\n  @%p1 trap; //!\n");
  finding("an index beyond the table of brx.idx", ErrorKind::out_of_bounds, {2},
          "TARGETS: .branchtargets ONE, TWO;\n  brx.idx %r0, TARGETS; //!\nONE:\nTWO:\n", {.threads = 3});
  test_case("an endless loop ends at the limit of instructions", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, "TOP:\n  add.u32 %r1, %r1, 1;\n  bra TOP;\n}\n"));
    device.options.max_instructions = 100000;
    const Error e = expect_error(ErrorKind::limit, [&] { device.launch("k", {}, {64}, device.allocate(256)); });
    EXPECT(std::string(e.what()).find("100000") != std::string::npos && e.kernel == "k", "message: ", e.what());
  });
  test_case("a warp that waits for a flag of another warp sees it", [] {
    for (const Order order : {Order::forward, Order::backward}) {
      Device device(
          text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 4 .u32 flag;\n", own_word,
               "  setp.eq.u32 %p1, %r0, 0;\n  @%p1 st.shared.u32 [flag], 0;\n  bar.sync 0;\n  setp.lt.u32 %p2, %r0, 32;\n  @%p2 bra WAIT;\n"
               "  setp.eq.u32 %p3, %r0, 32;\n  @%p3 atom.shared.exch.b32 %r1, [flag], 5;\n  bra DONE;\nWAIT:\n"
               "  atom.shared.or.b32 %r1, [flag], 0;\n"
               "  setp.eq.u32 %p3, %r1, 0;\n  @%p3 bra WAIT;\nDONE:\n  st.global.u32 [%rd0], %r1;\n  ret;\n}\n"));
      device.options.warp_order = order;
      const uint64_t out = device.upload(std::vector<uint32_t>(64));
      device.launch("k", {}, {64}, out);
      EXPECT(device.download<uint32_t>(out, 1)[0] == 5, "the flag");
    }
  });
  const std::string external =
      ".extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 g, .param .b64 s);\n"
      ".global .align 1 .b8 message[6] = {120, 32, 62, 32, 48, 0};\n.global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};\n"
      ".global .align 1 .b8 function[2] = {103, 0};\n";
  finding(
      "a failed assertion says what, where and in which function", ErrorKind::assertion, {9},
      "  setp.ne.u32 %p1, %r0, 9;\n  @%p1 bra OUT;\n  mov.u64 %rd3, message;\n  cvta.global.u64 %rd3, %rd3;\n  mov.u64 %rd4, file;\n"
      "  cvta.global.u64 %rd4, %rd4;\n"
      "  mov.u64 %rd5, function;\n  cvta.global.u64 %rd5, %rd5;\n  {\n  .param .b64 p0;\n  st.param.b64 [p0], %rd3;\n  .param .b64 p1;\n"
      "  st.param.b64 [p1], %rd4;\n"
      "  .param .b32 p2;\n  st.param.b32 [p2], 31;\n  .param .b64 p3;\n  st.param.b64 [p3], %rd5;\n  .param .b64 p4;\n"
      "  st.param.b64 [p4], 1;\n"
      "  call.uni __assertfail, (p0, p1, p2, p3, p4); //!\n  }\nOUT:\n",
      {}, {"x > 0", "a.cu", "31", "g"}, external);
}

}  // namespace

SUITE(checks_flow) {
  barriers();
  collectives();
  ends();
}

}  // namespace ptxemu::test
