// Races in shared memory between warps and between lanes, copies that nobody waited for, races in global memory between blocks; and the
// twins that are right. Threads are those of the forward order: warp 0 runs to its next barrier first.
#include "findings.h"

namespace ptxemu::test {
namespace {

const ErrorKind kind = ErrorKind::race;
const std::string prepare = "  st.shared.u32 [%r9], %r0;\n  bar.sync 0;\n";             // every word is written and everybody knows
const std::string other = "  xor.b32 %r2, %r0, 32;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n";  // %r2 = the word of the same lane of another warp
const std::string neighbour = "  xor.b32 %r2, %r0, 1;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n";  // %r2 = the word of the lane beside
const std::string first_warp = "  setp.lt.u32 %p1, %r0, 32;\n";

void shared_memory() {
  finding("read after write without a barrier", kind, {32},
          prepare + first_warp +
              "  @%p1 st.shared.u32 [%r9], 7;\n  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  @!%p1 ld.shared.u32 %r1, [%r2]; "
              "//!\n",
          {}, {"read after write", "thread 32", "thread 0"});
  clean("read after write with a barrier",
        prepare + first_warp +
            "  @%p1 st.shared.u32 [%r9], 7;\n  bar.sync 0;\n  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n"
            "  @!%p1 ld.shared.u32 %r1, [%r2];\n");
  finding("write after read without a barrier", kind, {32},
          prepare + first_warp + other +
              "  @%p1 ld.shared.u32 %r1, [%r2];\n  setp.lt.and.u32 %p2, %r0, 64, !%p1;\n  @%p2 st.shared.u32 [%r9], 7; //!\n",
          {}, {"write after read"});
  clean("write after read with a barrier",
        prepare + first_warp + other + "  @%p1 ld.shared.u32 %r1, [%r2];\n  bar.sync 0;\n  @!%p1 st.shared.u32 [%r9], 7;\n");
  finding("write after write without a barrier", kind, {32},
          "  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  st.shared.u32 [%r2], %r0; //!\n", {.threads = 64},
          {"write after write"});
  clean("write after write with a barrier",
        first_warp +
            "  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  @%p1 st.shared.u32 [%r2], %r0;\n  bar.sync 0;\n"
            "  @!%p1 st.shared.u32 [%r2], %r0;\n",
        {.threads = 64});
  finding(
      "a loop without the barrier at its end", kind, {32},
      other +
          "  mov.u32 %r3, 0;\nTOP:\n  add.u32 %r4, %r3, %r0;\n  st.shared.u32 [%r9], %r4;\n  bar.sync 0;\n  ld.shared.u32 %r1, [%r2]; //!\n"
          "  add.u32 %r3, %r3, 1;\n  setp.lt.u32 %p1, %r3, 4;\n  @%p1 bra TOP;\n");
  clean("a loop with two buffers and one barrier",
        other +
            "  mov.u32 %r3, 0;\nTOP:\n  and.b32 %r4, %r3, 1;\n  mad.lo.u32 %r5, %r4, 256, %r9;\n  mad.lo.u32 %r6, %r4, 256, %r2;\n"
            "  st.shared.u32 [%r5], %r3;\n"
            "  bar.sync 0;\n  ld.shared.u32 %r1, [%r6];\n  add.u32 %r3, %r3, 1;\n  setp.lt.u32 %p1, %r3, 6;\n  @%p1 bra TOP;\n",
        {.threads = 64});
  finding("a vector of which one word belongs to another warp", kind, {32},
          prepare + first_warp +
              "  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 8, %r8;\n  @%p1 ld.shared.v2.u32 {%r3, %r4}, [%r2];\n"
              "  @!%p1 st.shared.u32 [%r2+4], 7; //!\n",
          {.threads = 64});
  finding("a warp overwrites what it and another warp have read", kind, {32},
          prepare + "  ld.shared.u32 %r1, [%r8];\n  setp.eq.u32 %p1, %r0, 32;\n  @%p1 st.shared.u32 [%r8], 9; //!\n", {.threads = 64},
          {"write after read"});
  finding("a thread overwrites what it and one of another warp have read", kind, {32},
          prepare +
              "  and.b32 %r2, %r0, 31;\n  setp.eq.u32 %p1, %r2, 0;\n  setp.eq.u32 %p2, %r0, 32;\n  @%p1 ld.shared.u32 %r1, [%r8];\n"
              "  @%p2 st.shared.u32 [%r8], 9; //!\n",
          {.threads = 64}, {"write after read"});
  finding("a generic load of what another warp writes", kind, {32},
          prepare + first_warp + "  cvta.shared.u64 %rd3, words;\n  @%p1 st.shared.u32 [%r9], 7;\n  @!%p1 ld.u32 %r1, [%rd3]; //!\n");
  finding("a load of what another warp changes atomically", kind, {32},
          prepare + first_warp + "  @%p1 red.shared.add.u32 [%r8], 1;\n  @!%p1 ld.shared.u32 %r1, [%r8]; //!\n");
  finding("an atomic on what another warp writes", kind, {32},
          prepare + first_warp + "  @%p1 st.shared.u32 [%r9], 5;\n  @!%p1 atom.shared.add.u32 %r1, [%r8], 1; //!\n", {}, {"atomic"});
  clean("atomics of all warps on one word",
        prepare + "  red.shared.add.u32 [%r8], 1;\n  atom.shared.max.u32 %r1, [%r8], %r0;\n  bar.sync 0;\n  ld.shared.u32 %r1, [%r8];\n");
  clean("bytes of different warps in one word", "  add.u32 %r2, %r8, %r0;\n  st.shared.u8 [%r2], %r0;\n  ld.shared.u8 %r1, [%r2];\n");
  finding("ldmatrix of what another warp writes", kind, {-1},
          prepare + first_warp +
              "  @!%p1 bra READ;\n  st.shared.u32 [%r9], 3;\n  bra END;\nREAD:\n  and.b32 %r2, %r0, 7;\n  mad.lo.u32 %r2, %r2, 16, %r8;\n"
              "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2]; //!\nEND:\n",
          {.threads = 64});
}

void barriers_of_some() {
  finding("a barrier of other warps", kind, {64},
          prepare +
              "  setp.ge.u32 %p1, %r0, 64;\n  @%p1 bra READ;\n  st.shared.u32 [%r9], 7;\n  bar.sync 1, 64;\n  bra END;\nREAD:\n  bar.sync "
              "2, 64;\n"
              "  and.b32 %r2, %r0, 63;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  ld.shared.u32 %r1, [%r2]; //!\nEND:\n");
  clean("consumers wait, producers arrive",
        prepare +
            "  setp.ge.u32 %p1, %r0, 64;\n  @%p1 bra READ;\n  st.shared.u32 [%r9], 7;\n  bar.arrive 1, 128;\n  bra END;\nREAD:\n"
            "  bar.sync 1, 128;\n"
            "  and.b32 %r2, %r0, 63;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  ld.shared.u32 %r1, [%r2];\nEND:\n");
  // Warps 0 and 1 meet; what the warps above have read since the whole block met is not theirs to write.
  const std::string some_meet =
      "  setp.lt.u32 %p1, %r0, 64;\n  @!%p1 ld.shared.u32 %r1, [%r8];\n  @%p1 bar.sync 1, 64;\n"
      "  setp.eq.u32 %p2, %r0, 0;\n";
  finding("a write of what a warp outside of the barrier has read", kind, {0}, prepare + some_meet + "  @%p2 st.shared.u32 [%r8], 9; //!\n",
          {.threads = 96}, {"write after read"});
  finding("a write of what several warps outside of the barrier have read", kind, {0},
          prepare + some_meet + "  @%p2 st.shared.u32 [%r8], 9; //!\n", {.threads = 128}, {"write after read"});
  clean("a write of what a warp inside of the barrier has read",
        prepare +
            "  setp.eq.u32 %p1, %r0, 32;\n  @%p1 ld.shared.u32 %r1, [%r8];\n  setp.lt.u32 %p1, %r0, 64;\n"
            "  @%p1 bar.sync 1, 64;\n  setp.eq.u32 %p2, %r0, 0;\n"
            "  @%p2 st.shared.u32 [%r8], 9;\n");
  finding("who only arrived and met others later has not waited", kind, {-1},
          prepare +
              "  setp.ge.u32 %p1, %r0, 64;\n  @%p1 bra PUT;\n  bar.arrive 1, 128;\n  bar.sync 2, 64;\n  add.u32 %r2, %r9, 256;\n"
              "  ld.shared.u32 %r1, [%r2]; //!\n  bra END;\nPUT:\n  st.shared.u32 [%r9], 7;\n  bar.sync 1, 128;\nEND:\n");
  finding("who only arrives has not waited", kind, {-1},
          prepare +
              "  setp.ge.u32 %p1, %r0, 64;\n  @%p1 bra PUT;\n  bar.arrive 1, 128;\n  add.u32 %r2, %r9, 256;\n  ld.shared.u32 %r1, [%r2];\n"
              "  bra END;\nPUT:\n"
              "  st.shared.u32 [%r9], 7;\n  bar.sync 1, 128;\nEND:\n");
}

void lanes() {
  finding("lanes exchange words without bar.warp.sync", kind, {0},
          neighbour + "  st.shared.u32 [%r9], %r0;\n  ld.shared.u32 %r1, [%r2]; //!\n", {.threads = 32});
  clean("lanes exchange words with bar.warp.sync",
        neighbour + "  st.shared.u32 [%r9], %r0;\n  bar.warp.sync 0xffffffff;\n  ld.shared.u32 %r1, [%r2];\n", {.threads = 32});
  finding("lanes overwrite what their neighbours read", kind, {0},
          prepare + neighbour + "  ld.shared.u32 %r1, [%r2];\n  st.shared.u32 [%r9], %r1; //!\n", {.threads = 32});
  finding("a lane overwrites what all lanes read", kind, {0},
          prepare + "  ld.shared.u32 %r1, [%r8];\n  setp.eq.u32 %p1, %r0, 0;\n  @%p1 st.shared.u32 [%r8], %r0; //!\n", {.threads = 32});
  finding("the last lane overwrites what all lanes read", kind, {31},
          prepare + "  ld.shared.u32 %r1, [%r8];\n  setp.eq.u32 %p1, %r0, 31;\n  @%p1 st.shared.u32 [%r8], %r0; //!\n", {.threads = 32});
  finding("a lane overwrites what it and another lane have read one after the other", kind, {9},
          prepare +
              "  setp.eq.u32 %p1, %r0, 3;\n  setp.eq.u32 %p2, %r0, 9;\n  @%p1 ld.shared.u32 %r1, [%r8];\n  @%p2 ld.shared.u32 %r1, [%r8];\n"
              "  @%p2 st.shared.u32 [%r8], %r0; //!\n",
          {.threads = 32});
  clean(
      "a lane overwrites what all lanes have read, after bar.warp.sync",
      prepare + "  ld.shared.u32 %r1, [%r8];\n  setp.eq.u32 %p1, %r0, 0;\n  bar.warp.sync 0xffffffff;\n  @%p1 st.shared.u32 [%r8], %r0;\n",
      {.threads = 32});
  clean("a lane overwrites what it alone has read",
        prepare +
            "  setp.eq.u32 %p1, %r0, 9;\n  @%p1 ld.shared.u32 %r1, [%r8];\n  @%p1 st.shared.u32 [%r8], %r0;\n  st.shared.u32 [%r9+256], "
            "%r0;\n",
        {.threads = 32});
  finding("one lane of a run goes out of its own words", kind, {33},
          prepare +
              "  setp.lt.u32 %p1, %r0, 32;\n  add.u32 %r2, %r9, -128;\n  setp.eq.u32 %p2, %r0, 1;\n  @%p2 st.shared.u32 [%r8+4], 5;\n"
              "  @!%p1 ld.shared.u32 %r1, [%r2]; //!\n",
          {.threads = 64});
  finding("two lanes of one store hit the same word", kind, {1},
          "  and.b32 %r2, %r0, 30;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n  st.shared.u32 [%r2], %r0; //!\n", {.threads = 32});
}

void copies() {
  const Shape warp{.threads = 32};
  const std::string from = "  mad.wide.u32 %rd3, %r0, 4, %rd1;\n", copy = from + "  cp.async.ca.shared.global [%r9], [%rd3], 4;\n";
  finding("cp.async without a wait", kind, {0}, copy + "  bar.sync 0;\n  ld.shared.u32 %r1, [%r9]; //!\n", warp, {"cp.async"});
  finding("cp.async waited for too few groups", kind, {0},
          copy + "  cp.async.commit_group;\n  cp.async.wait_group 1;\n  ld.shared.u32 %r1, [%r9]; //!\n", warp);
  finding("cp.async that was never committed", kind, {0}, copy + "  cp.async.wait_group 0;\n  ld.shared.u32 %r1, [%r9]; //!\n", warp);
  finding("cp.async waited for, but no barrier", kind, {32},
          prepare + copy +
              "  cp.async.wait_all;\n  and.b32 %r2, %r0, 31;\n  mad.lo.u32 %r2, %r2, 4, %r8;\n"
              "  ld.shared.u32 %r1, [%r2]; //!\n",
          {.threads = 64});
  finding("a store to what cp.async still writes", kind, {0}, copy + "  st.shared.u32 [%r9], 1; //!\n  cp.async.wait_all;\n", warp);
  finding("cp.async to what another lane has just read", kind, {0},
          prepare + neighbour + "  ld.shared.u32 %r1, [%r2];\n" + from +
              "  cp.async.ca.shared.global [%r9], [%rd3], 4; //!\n  cp.async.wait_all;\n",
          warp);
  clean("cp.async, wait, barrier", copy + "  cp.async.wait_all;\n  bar.sync 0;\n" + other + "  ld.shared.u32 %r1, [%r2];\n");
}

void between_blocks() {
  const Shape two{.blocks = 2, .threads = 32};
  const std::string zero = "  setp.eq.u32 %p1, %r7, 0;\n";
  finding("a block reads what another has written", kind, {0, 1},
          zero + "  @%p1 st.global.u32 [%rd0], 1;\n  @!%p1 ld.global.u32 %r1, [%rd0]; //!\n", two, {"block 0"});
  finding("a block writes what another has read", kind, {0, 1},
          zero + "  @%p1 ld.global.u32 %r1, [%rd0];\n  @!%p1 st.global.u32 [%rd0], 1; //!\n", two, {"block 0"});
  finding("two blocks write the same word", kind, {0, 1}, "  st.global.u32 [%rd0], %r7; //!\n", two);
  finding("a block writes what all have read", kind, {5, 3},
          "  ld.global.u32 %r1, [%rd0];\n  setp.eq.u32 %p1, %r7, 3;\n  setp.eq.and.u32 %p1, %r0, 5, %p1;\n"
          "  @%p1 st.global.u32 [%rd0], 1; //!\n",
          {.blocks = 4, .threads = 32});
  finding("a block reads what another changes atomically", kind, {0, 1},
          zero + "  @%p1 red.global.add.u32 [%rd0], 1;\n  @!%p1 ld.global.u32 %r1, [%rd0]; //!\n", two);
  clean("all blocks read, each writes its own, atomics meet",
        "  ld.global.u32 %r1, [%rd1];\n  mad.wide.u32 %rd3, %r7, 256, %rd0;\n  st.global.u32 [%rd3], %r1;\n"
        "  red.global.add.u32 [%rd1+400], 1;\n",
        {.blocks = 3, .threads = 32});
  const std::string partial = "  setp.ne.u32 %p1, %r0, 0;\n  mad.wide.u32 %rd3, %r7, 4, %rd0;\n  @%p1 ret;\n  st.global.u32 [%rd3], %r7;\n";
  const std::string last =
      "  atom.global.inc.u32 %r1, [%rd1], 3;\n  setp.ne.u32 %p2, %r1, 3;\n  @%p2 ret;\n  membar.gl;\n"
      "  ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0]; //!\n";
  clean("the last block sums what the others left behind a fence", partial + "  membar.gl;\n" + last, {.blocks = 4, .threads = 32});
  finding("the last block sums without a fence", kind, {0, 3}, partial + last, {.blocks = 4, .threads = 32});
  test_case("launches one after the other do not race", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word,
                       "  ld.global.u32 %r1, [%rd0];\n  add.u32 %r1, %r1, 1;\n  st.global.u32 [%rd0], %r1;\n  ret;\n}\n"));
    const uint64_t out = device.upload(std::vector<uint32_t>(32));
    for (int i = 0; i < 5000; i++) device.launch("k", {}, {32}, out);  // more than the stamps of one round
    expect_each(device.download<uint32_t>(out, 32), [](size_t) { return 5000u; });
  });
  test_case("the checks of races can be switched off", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 4 .b8 s[4];\n", own_word,
                       "  st.shared.u32 [s], %r0;\n  st.global.u32 [%rd0], 1;\n  ret;\n}\n"));
    device.options.races = false;
    device.launch("k", {2}, {64}, device.upload(std::vector<uint32_t>(64)));
  });
}

}  // namespace

SUITE(checks_races) {
  shared_memory();
  barriers_of_some();
  lanes();
  copies();
  between_blocks();
}

}  // namespace ptxemu::test
