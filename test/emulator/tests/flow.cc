// Control flow: predicates, divergence and reconvergence, loops, early exit, calls, indexed branches.
// PTX ISA 9.0, "Control Flow Instructions", "Abstracting the ABI".
#include "device.h"

namespace ptxemu::test {
namespace {

// A kernel over one block of 96 threads: the body computes %r1 from %r0 = tid.
void flow(const std::string& name, const std::string& body, std::function<uint32_t(uint32_t tid)> expected,
          const std::string& functions = "") {
  test_case(name, [=] {
    Device device(
        text(functions, ".visible .entry k(.param .u64 out)\n{\n", own_word, body, "STORE:\n  st.global.u32 [%rd0], %r1;\n  ret;\n}\n"));
    expect_each(results_of<uint32_t>(device, {96}, 96), [&](size_t i) { return expected(uint32_t(i)); }, "thread");
  });
}

void predicates() {
  flow("a guard keeps the other lanes' registers",
       "  setp.gt.u32 %p1, %r0, 40;\n  mov.u32 %r1, 5;\n  @%p1 add.u32 %r1, %r1, %r0;\n  @!%p1 shl.b32 %r1, %r1, 4;\n",
       [](uint32_t t) { return t > 40 ? t + 5 : 80; });
  flow("a guard keeps memory",
       "  setp.lt.u32 %p1, %r0, 50;\n  mov.u32 %r1, 1;\n  st.global.u32 [%rd0], 8;\n  @%p1 st.global.u32 [%rd0], 9;\n"
       "  @!%p1 mov.u64 %rd1, 0;\n  @%p1 mov.u64 %rd1, %rd0;\n  @%p1 ld.global.u32 %r1, [%rd1];\n",
       [](uint32_t t) { return t < 50 ? 9 : 1; });
  flow("a guard may overwrite its own predicate",
       "  setp.lt.u32 %p1, %r0, 50;\n  @%p1 setp.lt.u32 %p1, %r0, 20;\n  selp.u32 %r1, 1, 2, %p1;\n",
       [](uint32_t t) { return t < 20 ? 1 : 2; });
}

void branches() {
  flow("nested branches", R"(
  and.b32 %r2, %r0, 1;
  setp.eq.u32 %p1, %r2, 0;
  @%p1 bra EVEN;
  setp.gt.u32 %p2, %r0, 33;
  @%p2 bra ODD_LARGE;
  mov.u32 %r1, 100;
  bra.uni JOIN;
ODD_LARGE:
  mov.u32 %r1, 200;
  bra.uni JOIN;
EVEN:
  mov.u32 %r1, 300;
  setp.lt.u32 %p2, %r0, 17;
  @!%p2 bra JOIN;
  mov.u32 %r1, 400;
JOIN:
  add.u32 %r1, %r1, %r0;
)",
       [](uint32_t t) {
         return t + (t % 2 ? (t > 33 ? 200 : 100) : t < 17 ? 400 : 300);
       });
  flow("loops with a trip count of each lane's own", R"(
  mov.u32 %r1, 0;
  and.b32 %r2, %r0, 15;
LOOP:
  add.u32 %r1, %r1, %r2;
  sub.u32 %r2, %r2, 1;
  setp.ge.s32 %p1, %r2, 0;
  @%p1 bra LOOP;
)",
       [](uint32_t t) { return t % 16 * (t % 16 + 1) / 2; });
  flow("nested loops with break and continue", R"(
  mov.u32 %r1, 0;
  mov.u32 %r2, 0;
OUTER:
  mov.u32 %r3, 0;
INNER:
  add.u32 %r3, %r3, 1;
  and.b32 %r4, %r3, 1;
  setp.eq.u32 %p1, %r4, 1;
  @%p1 bra NEXT;
  mad.lo.u32 %r1, %r2, %r3, %r1;
  setp.gt.u32 %p2, %r1, %r0;
  @%p2 bra BREAK;
NEXT:
  setp.lt.u32 %p1, %r3, 6;
  @%p1 bra INNER;
BREAK:
  add.u32 %r2, %r2, 1;
  setp.lt.u32 %p1, %r2, 5;
  @%p1 bra OUTER;
)",
       [](uint32_t t) {
         uint32_t sum = 0;
         for (uint32_t i = 0; i < 5; i++)
           for (uint32_t j = 1; j <= 6; j++) {
             if (j % 2) continue;
             sum += i * j;
             if (sum > t) break;
           }
         return sum;
       });
  flow("lanes that left early take no part in what follows", R"(
  mov.u32 %r1, 7;
  st.global.u32 [%rd0], %r1;
  rem.u32 %r2, %r0, 3;
  setp.eq.u32 %p1, %r2, 0;
  @%p1 ret;
  setp.eq.u32 %p2, %r2, 1;
  @%p2 exit;
  activemask.b32 %r1;
)",
       [](uint32_t t) {
         uint32_t mask = 0;
         for (uint32_t lane = 0; lane < 32; lane++) mask |= uint32_t((t / 32 * 32 + lane) % 3 == 2) << lane;
         return t % 3 == 2 ? mask : 7;
       });
  flow("lanes meet again behind a branch", R"(
  mov.u32 %r2, %r0;
  setp.lt.u32 %p1, %r0, 45;
  @%p1 bra SMALL;
  add.u32 %r2, %r2, 1000;
  bra JOIN;
SMALL:
  add.u32 %r2, %r2, 2000;
JOIN:
  shfl.sync.bfly.b32 %r1, %r2, 31, 31, 0xffffffff;
)",
       [](uint32_t t) { return (t ^ 31) + ((t ^ 31) < 45 ? 2000 : 1000); });
  flow("lanes meet again behind a loop with an inner exit", R"(
  mov.u32 %r2, 0;
TOP:
  setp.ge.u32 %p1, %r2, %r0;
  @%p1 bra OUT;
  add.u32 %r2, %r2, 3;
  setp.gt.u32 %p2, %r2, 50;
  @%p2 bra OUT;
  bra TOP;
OUT:
  bar.warp.sync 0xffffffff;
  redux.sync.max.u32 %r1, %r2, 0xffffffff;
)",
       [](uint32_t t) { return t < 32 ? 33 : 51; });
  flow("brx.idx", R"(
  and.b32 %r2, %r0, 3;
  mov.u32 %r1, 0;
TARGETS: .branchtargets CASE0, CASE1, CASE2, CASE0;
  brx.idx %r2, TARGETS;
CASE0:
  add.u32 %r1, %r1, 1;
CASE1:
  add.u32 %r1, %r1, 10;
CASE2:
  add.u32 %r1, %r1, 100;
)",
       [](uint32_t t) { return t % 4 == 1   ? 110
                               : t % 4 == 2 ? 100
                                            : 111; });
  flow("scopes hide names of outer ones", R"(
  mov.u32 %r1, 1;
  {
  .reg .b32 %r<4>;
  mov.u32 %r1, 55;
  {
  .reg .b32 temporary;
  mov.u32 temporary, %r1;
  }
  }
  add.u32 %r1, %r1, 1;
)",
       [](uint32_t) { return 2; });
  flow("a comment, a blank and several statements on a line change nothing",
       "  mov.u32 %r1, 3; /* ; mov.u32 %r1, 4; */ add.u32 %r1 , %r1,\n    %r1; // add.u32 %r1, %r1, %r1;\n", [](uint32_t) { return 6; });
}

const std::string call =
    "  {\n  .param .b32 p0;\n  st.param.b32 [p0], %r2;\n  .param .b32 back;\n  call.uni (back), f, (p0);\n  ld.param.b32 %r1, [back];\n  "
    "}\n";

void calls() {
  flow(
      "a function with a parameter and a result", "  add.u32 %r2, %r0, 1;\n" + call, [](uint32_t t) { return (t + 1) * (t + 1); },
      ".func (.param .b32 result) f(.param .b32 x)\n{\n  .reg .b32 %r<3>;\n  ld.param.b32 %r1, [x];\n  mul.lo.u32 %r2, %r1, %r1;\n"
      "  st.param.b32 [result], %r2;\n  ret;\n}\n");
  flow(
      "a function that diverges, called by some lanes",
      "  setp.lt.u32 %p1, %r0, 70;\n  mov.u32 %r1, 9;\n  mov.u32 %r2, %r0;\n  @!%p1 bra STORE;\n" + call,
      [](uint32_t t) { return t >= 70  ? 9
                              : t < 30 ? 1
                                       : t; },
      ".func (.param .b32 result) f(.param .b32 x)\n{\n  .reg .pred %p;\n  .reg .b32 %r<3>;\n  ld.param.b32 %r1, [x];\n"
      "  setp.ge.u32 %p, %r1, 30;\n"
      "  @%p bra LARGE;\n  st.param.b32 [result], 1;\n  ret;\nLARGE:\n  st.param.b32 [result], %r1;\n  ret;\n}\n");
  flow(
      "a function that calls another in a loop", "  and.b32 %r2, %r0, 7;\n" + call, [](uint32_t t) { return t % 8 * 3; },
      ".func (.param .b32 result) three(.param .b32 x)\n{\n  .reg .b32 %r<3>;\n  ld.param.b32 %r1, [x];\n  add.u32 %r1, %r1, 3;\n"
      "  st.param.b32 [result], %r1;\n  ret;\n}\n"
      ".func (.param .b32 result) f(.param .b32 x)\n{\n  .reg .pred %p;\n  .reg .b32 %r<4>;\n  ld.param.b32 %r1, [x];\n  mov.u32 %r2, 0;\n"
      "TOP:\n"
      "  setp.eq.u32 %p, %r1, 0;\n  @%p bra OUT;\n  {\n  .param .b32 a;\n  .param .b32 b;\n  st.param.b32 [a], %r2;\n"
      "  call (b), three, (a);\n"
      "  ld.param.b32 %r2, [b];\n  }\n  sub.u32 %r1, %r1, 1;\n  bra TOP;\nOUT:\n  st.param.b32 [result], %r2;\n  ret;\n}\n");
  flow(
      "a function without result that writes through a pointer",
      "  mov.u32 %r1, 0;\n  {\n  .param .b64 a;\n  st.param.b64 [a], %rd0;\n  call.uni put, (a);\n  }\n"
      "  ld.global.u32 %r1, [%rd0];\n",
      [](uint32_t) { return 77; },
      ".func put(.param .b64 at)\n{\n  .reg .b64 %x;\n  ld.param.b64 %x, [at];\n  st.global.u32 [%x], 77;\n  ret;\n}\n");
}

void local_memory() {
  flow("an array in local memory, indexed at run time", R"(
  .local .align 4 .b8 depot[64];
  .reg .b64 %SP, %SPL;
  mov.u64 %SPL, depot;
  cvta.local.u64 %SP, %SPL;
  mov.u32 %r2, 0;
FILL:
  mul.wide.u32 %rd1, %r2, 4;
  add.s64 %rd2, %SPL, %rd1;
  mad.lo.u32 %r3, %r2, 10, %r0;
  st.local.u32 [%rd2], %r3;
  add.u32 %r2, %r2, 1;
  setp.lt.u32 %p1, %r2, 16;
  @%p1 bra FILL;
  and.b32 %r4, %r0, 15;
  mul.wide.u32 %rd1, %r4, 4;
  add.s64 %rd2, %SP, %rd1;
  ld.u32 %r1, [%rd2];
)",
       [](uint32_t t) { return t % 16 * 10 + t; });
}

}  // namespace

SUITE(flow) {
  predicates();
  branches();
  calls();
  local_memory();
}

}  // namespace ptxemu::test
