// Findings about single accesses: out of bounds on each side in each space, misaligned, never written.
#include "findings.h"

namespace ptxemu::test {
namespace {

void bounds() {
  const ErrorKind kind = ErrorKind::out_of_bounds;
  // Global: 1000 bytes at %rd1.
  finding("a global load behind the allocation", kind, {3}, "  setp.eq.u32 %p1, %r0, 3;\n  @%p1 ld.global.u32 %r1, [%rd1+1000]; //!\n", {},
          {"1000"});
  finding("a global load before the allocation", kind, {0}, "  ld.global.u32 %r1, [%rd1+-4]; //!\n");
  finding("a global vector that leaves the allocation half-way", kind, {97},
          "  setp.eq.u32 %p1, %r0, 97;\n  @%p1 ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+992]; //!\n", {}, {"992", "1000"});
  finding("a global store behind the allocation", kind, {124},
          "  mad.wide.u32 %rd3, %r0, 8, %rd1;\n  add.s64 %rd3, %rd3, 8;\n  st.global.u64 [%rd3], 1; //!\n");
  finding("a null pointer", kind, {0}, "  mov.u64 %rd3, 0;\n  ld.global.u32 %r1, [%rd3+8]; //!\n");
  finding("an address of nothing", kind, {0}, "  mov.u64 %rd3, 0x123456789000;\n  st.u32 [%rd3], %r0; //!\n");
  finding("an atomic behind the allocation", kind, {0}, "  atom.global.add.u32 %r1, [%rd1+1000], 1; //!\n");
  finding("a reduction before the allocation", kind, {0}, "  red.global.add.f32 [%rd1+-4], 0f3F800000; //!\n");
  clean("the first and last bytes of an allocation",
        "  ld.global.u8 %r1, [%rd1];\n  ld.global.u8 %r2, [%rd1+999];\n"
        "  ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+976];\n");
  finding("a lane in the middle of neighbouring ones that leaves the allocation", kind, {58},
          "  mad.wide.u32 %rd3, %r0, 4, %rd1;\n  add.s64 %rd3, %rd3, 768;\n  ld.global.u32 %r1, [%rd3]; //!\n", {.threads = 64}, {"1000"});
  finding("a lane in the middle of neighbouring ones that reads what nobody has written", ErrorKind::uninitialised, {40},
          "  mad.wide.u32 %rd3, %r0, 4, %rd2;\n  setp.ne.u32 %p1, %r0, 40;\n  @%p1 st.global.u32 [%rd3], %r0;\n"
          "  ld.global.u32 %r1, [%rd3]; //!\n",
          {.threads = 64});
  test_case("memory that has been freed", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, "  ld.global.u32 %r1, [%rd0];\n  ret;\n}\n"));
    const uint64_t out = device.upload(std::vector<int>(32));
    device.launch("k", {}, {32}, out);
    EXPECT(device.memory.release(out), "release");
    EXPECT(expect_error(kind, [&] { device.launch("k", {}, {32}, out); }).source.empty(), "a source although there is no .loc");
  });
  test_case("block and thread are named in three dimensions", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, R"(
  mov.u32 %r1, %ctaid.z;
  mov.u32 %r2, %ctaid.y;
  mov.u32 %r3, %tid.z;
  mov.u32 %r4, %tid.y;
  setp.eq.u32 %p1, %r1, 1;
  setp.eq.and.u32 %p1, %r2, 2, %p1;
  setp.eq.and.u32 %p1, %r3, 1, %p1;
  setp.eq.and.u32 %p1, %r4, 4, %p1;
  setp.eq.and.u32 %p1, %r0, 3, %p1;
  @%p1 st.global.u32 [%rd0+-16], %r0;
  ret;
}
)"));
    const Error e = expect_error(kind, [&] { device.launch("k", {2, 3, 2}, {4, 5, 2}, device.allocate(16)); });
    const std::string what = e.what();
    EXPECT(e.thread == 39 && what.find("thread (3, 4, 1)") != std::string::npos, what);
    EXPECT(e.block.y == 2 && e.block.z == 1 && what.find(text("block (", e.block.x, ", 2, 1)")) != std::string::npos, what);
  });
  test_case("a host address", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, "  ld.global.u32 %r1, [%rd0];\n  ret;\n}\n"));
    std::vector<uint32_t> host(32);
    expect_error(kind, [&] { device.launch("k", {}, {32}, uint64_t(host.data())); });
  });

  // Shared: 512 bytes of words, 64 dynamic.
  const std::string dynamic = ".extern .shared .align 16 .b8 dynamic[];\n";
  finding("a shared load behind all shared memory", kind, {0}, "  ld.shared.u32 %r1, [%r8+512]; //!\n", {}, {"512"});
  finding("a shared load before all shared memory", kind, {0}, "  ld.shared.u32 %r1, [%r8+-4]; //!\n");
  finding("a shared store behind static and dynamic memory", kind, {16},
          "  mov.u32 %r1, dynamic;\n  mad.lo.u32 %r1, %r0, 4, %r1;\n  st.shared.u32 [%r1], %r0; //!\n",
          {.threads = 17, .dynamic_shared = 64}, {"shared"}, dynamic);
  clean("all of dynamic memory", "  mov.u32 %r1, dynamic;\n  mad.lo.u32 %r1, %r0, 4, %r1;\n  st.shared.u32 [%r1], %r0;\n",
        {.threads = 16, .dynamic_shared = 64}, dynamic);
  finding("a generic store behind shared memory", kind, {5},
          "  cvta.shared.u64 %rd3, words;\n  add.s64 %rd3, %rd3, 510;\n  setp.eq.u32 %p1, %r0, 5;\n  @%p1 add.s64 %rd3, %rd3, 2;\n"
          "  @%p1 st.u16 [%rd3], 1; //!\n");
  finding("a shared atomic behind shared memory", kind, {0}, "  atom.shared.add.u32 %r1, [%r8+512], 1; //!\n");
  finding("a row of ldmatrix behind shared memory", kind, {-1},
          "  mad.lo.u32 %r1, %r0, 16, %r8;\n  st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};\n  bar.sync 0;\n  add.u32 %r1, %r1, 400;\n"
          "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1]; //!\n",
          {.threads = 32});
  finding("cp.async to behind shared memory", kind, {0}, "  cp.async.ca.shared.global [%r8+512], [%rd1], 4; //!\n");
  finding("cp.async from behind the allocation", kind, {0}, "  cp.async.ca.shared.global [%r9], [%rd1+1000], 4; //!\n");

  // Local: 16 bytes.
  const std::string depot = "  .local .align 8 .b8 depot[16];\n  mov.u64 %rd3, depot;\n";
  finding("a local store behind the frame", kind, {0}, depot + "  st.local.u32 [%rd3+16], %r0; //!\n");
  finding("a local load before the frame", kind, {0}, depot + "  ld.local.u32 %r1, [%rd3+-4]; //!\n");
  finding("a generic store behind the frame", kind, {0}, depot + "  cvta.local.u64 %rd3, %rd3;\n  st.u32 [%rd3+16], %r0; //!\n");
  finding("a constant behind the table", kind, {0}, "  ld.const.u32 %r1, [table+16]; //!\n", {}, {},
          ".const .align 4 .u32 table[4] = {1, 2, 3, 4};\n");
}

void alignment() {
  const ErrorKind kind = ErrorKind::misaligned;
  finding("a global word at an odd address", kind, {0}, "  ld.global.u32 %r1, [%rd1+2]; //!\n");
  finding("a global pair of words at a multiple of 4", kind, {1},
          "  mad.wide.u32 %rd3, %r0, 4, %rd1;\n  ld.global.v2.u32 {%r1, %r2}, [%rd3]; //!\n");
  finding("a global store of 16 bytes at a multiple of 8", kind, {0}, "  st.global.v2.u64 [%rd1+8], {%rd1, %rd1}; //!\n");
  finding("a shared vector at a multiple of 8", kind, {0}, "  st.shared.v4.u32 [%r8+8], {%r0, %r0, %r0, %r0}; //!\n");
  finding("a shared half at an odd address", kind, {0}, "  st.shared.u16 [%r8+1], %r0; //!\n");
  finding("a local double at a multiple of 4", kind, {0},
          "  .local .align 8 .b8 depot[16];\n  mov.u64 %rd3, depot;\n  st.local.u64 [%rd3+4], %rd1; //!\n");
  finding("a generic word at an odd address", kind, {0}, "  cvta.shared.u64 %rd3, words;\n  st.u32 [%rd3+2], %r0; //!\n");
  finding("an atomic at an odd address", kind, {0}, "  atom.global.add.u32 %r1, [%rd1+2], 1; //!\n");
  finding("a row of ldmatrix at a multiple of 8", kind, {-1},
          "  st.shared.u32 [%r9], %r0;\n  bar.sync 0;\n  mad.lo.u32 %r1, %r0, 8, %r8;\n"
          "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1]; //!\n",
          {.threads = 32});
  finding("cp.async of 16 bytes to a multiple of 8", kind, {0}, "  cp.async.cg.shared.global [%r8+8], [%rd1], 16; //!\n");
  finding("cp.async of 8 bytes from a multiple of 4", kind, {0}, "  cp.async.ca.shared.global [%r8], [%rd1+4], 8; //!\n");
}

void uninitialised() {
  const ErrorKind kind = ErrorKind::uninitialised;
  finding("a shared word that nobody has written", kind, {0}, "  ld.shared.u32 %r1, [%r9]; //!\n");
  finding("a shared vector of which one word is not written", kind, {0},
          "  setp.eq.u32 %p1, %r0, 0;\n  @%p1 st.shared.v2.u32 [%r8], {%r0, %r0};\n  @%p1 st.shared.u32 [%r8+8], %r0;\n"
          "  @%p1 ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%r8]; //!\n");
  finding("an atomic on shared memory that nobody has written", kind, {0}, "  atom.shared.add.u32 %r1, [%r8], 1; //!\n");
  finding(
      "a matrix of which one row is not written", kind, {-1},
      "  setp.ne.u32 %p1, %r0, 5;\n  mad.lo.u32 %r1, %r0, 16, %r8;\n  @%p1 st.shared.v4.u32 [%r1], {%r0, %r0, %r0, %r0};\n  bar.sync 0;\n"
      "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1]; //!\n",
      {.threads = 32});
  finding("shared memory of the block before is not this block's", kind, {0, 1},
          "  setp.ne.u32 %p1, %r7, 0;\n  @!%p1 st.shared.u32 [%r9], %r0;\n  @%p1 ld.shared.u32 %r1, [%r9]; //!\n", {.blocks = 2});
  finding("a global word that nobody has written", kind, {0}, "  ld.global.u32 %r1, [%rd2+16]; //!\n");
  finding("a global vector of which the last word is not written", kind, {0},
          "  st.global.v2.u32 [%rd2], {%r0, %r0};\n  st.global.u32 [%rd2+8], %r0;\n  ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2]; //!\n",
          {.threads = 1});
  finding("cp.async from global memory that nobody has written", kind, {-1},
          "  cp.async.ca.shared.global [%r9], [%rd2], 4; //!\n  cp.async.wait_all;\n", {.threads = 1});
  finding("an atomic on global memory that nobody has written", kind, {0}, "  atom.global.add.u32 %r1, [%rd2], 1; //!\n");
  clean("memory that the kernel itself writes first",
        "  setp.eq.u32 %p1, %r0, 0;\n  @%p1 st.global.u32 [%rd2], 1;\n  @%p1 ld.global.u32 %r1, [%rd2];\n"
        "  st.shared.u32 [%r9], 1;\n  ld.shared.u32 %r1, [%r9];\n  atom.shared.add.u32 %r1, [%r9], 1;\n");
  test_case("what is copied from uninitialised memory stays uninitialised", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, "  ld.global.u32 %r1, [%rd0];\n  ret;\n}\n"));
    const uint64_t from = device.allocate(64), to = device.upload(std::vector<int>(16));
    device.memory.fill(from, 0, 60);
    device.memory.copy(to, from, 64);
    EXPECT(device.memory.first_uninitialised(to, 64) == 60, "first uninitialised byte: ", device.memory.first_uninitialised(to, 64));
    device.launch("k", {}, {15}, to);
    EXPECT(expect_error(kind, [&] { device.launch("k", {}, {16}, to); }).thread == 15, "thread");
  });
  test_case("the checks of uninitialised memory can be switched off", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 4 .b8 s[128];\n", own_word,
                       "  ld.global.u32 %r1, [%rd0];\n  ld.shared.u32 %r2, [s];\n  ret;\n}\n"));
    device.options.uninitialised = false;
    device.launch("k", {}, {32}, device.allocate(128));
  });
}

}  // namespace

SUITE(checks_memory) {
  bounds();
  alignment();
  uninitialised();
}

}  // namespace ptxemu::test
