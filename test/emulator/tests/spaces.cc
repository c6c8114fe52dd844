// State spaces: parameters, constants, initialised variables, shared (static and dynamic), local, generic addresses; special registers;
// printf. PTX ISA 9.0, "State Spaces", "isspacep", "cvta", "Special Registers".
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "device.h"

namespace ptxemu::test {
namespace {

std::string kernel(const std::string& body, const std::string& more_parameters = "") {
  return text(".visible .entry k(.param .u64 out", more_parameters, ")\n{\n", own_word, body, "  ret;\n}\n");
}

void parameters() {
  test_case("parameters keep their types, order and alignment", [] {
    Device device(
        kernel("  ld.param.u8 %r1, [c];\n  ld.param.s16 %r2, [s];\n  ld.param.f32 %r3, [f];\n  ld.param.u32 %r4, [b+4];\n"
               "  ld.param.v2.u32 {%r5, %r6}, [b+8];\n"
               "  ld.param.u64 %rd1, [q];\n  cvt.u32.u64 %r7, %rd1;\n"
               "  st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4};\n  st.global.v4.u32 [%rd0+16], {%r5, %r6, %r7, %r0};\n",
               ", .param .u8 c, .param .u16 s, .param .f32 f, .param .align 8 .b8 b[16], .param .u64 q"));
    struct Block { uint32_t words[4]; };
    const uint64_t out = device.upload(std::vector<uint32_t>(8));
    device.launch("k", {}, {1}, out, uint8_t(200), int16_t(-2), 1.0f, Block{{1, 2, 3, 4}}, uint64_t(0x500000006));
    const std::vector<uint32_t> expected{200, 0xfffffffe, 0x3f800000, 2, 3, 4, 6, 0};
    expect_each(device.download<uint32_t>(out, 8), [&](size_t i) { return expected[i]; });
  });
}

void variables() {
  test_case("variables hold their initial values, the rest is zero", [] {
    Device device(text(
        ".const .align 4 .u32 table[6] = {10, 0x20, 0b11, 040};\n.global .align 1 .b8 bytes[8] = {1, 2, 255, 4};\n"
        ".global .f32 one = 0f3F800000;\n"
        ".global .align 8 .f64 wide = 0d4000000000000000;\n.global .align 4 .s32 numbers[4] = {-1, -2, -3, -4};\n"
        ".global .align 8 .u64 address[2] = {generic(numbers), numbers+8};\n.global .align 4 .b8 zeros[4];\n",
        kernel("  ld.const.u32 %r1, [table+4];\n  ld.const.v2.u32 {%r2, %r3}, [table+8];\n  ld.const.u32 %r4, [table+16];\n"
               "  ld.global.u32 %r5, [bytes];\n  ld.global.f32 %r6, [one];\n  ld.global.f64 %rd1, [wide];\n  mov.b64 {_, %r7}, %rd1;\n"
               "  st.global.v4.u32 [%rd0], {%r1, %r2, %r3, %r4};\n"
               "  mov.u64 %rd2, numbers;\n  ld.global.s32 %r4, [%rd2+12];\n  st.global.v4.u32 [%rd0+16], {%r5, %r6, %r7, %r4};\n"
               "  ld.global.u64 %rd3, [address];\n  ld.s32 %r1, [%rd3];\n  ld.global.u64 %rd4, [address+8];\n  ld.global.s32 %r2, [%rd4];\n"
               "  mov.u64 %rd5, table;\n  ld.const.u32 %r3, [%rd5+12];\n  ld.global.u32 %r4, [zeros];\n"
               "  st.global.v4.u32 [%rd0+32], {%r1, %r2, %r3, %r4};\n")));
    const uint64_t out = device.upload(std::vector<uint32_t>(12));
    device.launch("k", {}, {1}, out);
    const std::vector<uint32_t> expected{0x20,         3,  32, 0, 0x04ff0201, 0x3f800000, 0x40000000, uint32_t(-4), uint32_t(-1),
                                         uint32_t(-3), 32, 0};
    expect_each(device.download<uint32_t>(out, 12), [&](size_t i) { return expected[i]; });
  });
  test_case("a global variable keeps its value from launch to launch and can be read by the host", [] {
    Device device(text(
        ".visible .global .align 4 .u32 counter = 5;\n",
        kernel(
            "  ld.global.u32 %r1, [counter];\n  add.s32 %r1, %r1, 1;\n  st.global.u32 [counter], %r1;\n  st.global.u32 [%rd0], %r1;\n")));
    const uint64_t out = device.upload(std::vector<uint32_t>(1));
    for (int i = 0; i < 3; i++) device.launch("k", {}, {1}, out);
    const Variable* counter = device.module->variable("counter");
    EXPECT(counter && counter->bytes == 4 && !counter->constant, "no variable counter of 4 bytes");
    EXPECT(device.download<uint32_t>(counter->address, 1)[0] == 8, "expected 8");
  });
  test_case("every block has its own shared memory and every thread its own local memory", [] {
    Device device(
        text(".extern .shared .align 16 .b8 dynamic[];\n.shared .align 4 .b8 fixed[128];\n",
             kernel("  .local .align 8 .b8 depot[16];\n  mov.u32 %r9, %ctaid.x;\n  shl.b32 %r8, %r0, 2;\n  mov.u32 %r1, fixed;\n"
                    "  add.s32 %r1, %r1, %r8;\n"
                    "  mov.u32 %r2, dynamic;\n  add.s32 %r2, %r2, %r8;\n  mad.lo.s32 %r3, %r9, 1000, %r0;\n  st.shared.u32 [%r1], %r3;\n"
                    "  add.s32 %r4, %r3, 7;\n  st.shared.u32 [%r2], %r4;\n  st.local.u32 [depot+4], %r3;\n  mov.u64 %rd1, depot;\n"
                    "  cvta.local.u64 %rd2, %rd1;\n  ld.u32 %r5, [%rd2+4];\n  ld.local.u32 %r6, [%rd1+4];\n  ld.shared.u32 %r7, [%r2];\n"
                    "  ld.shared.u32 %r10, [%r1];\n  add.s32 %r5, %r5, %r6;\n  add.s32 %r5, %r5, %r7;\n  add.s32 %r5, %r5, %r10;\n"
                    "  mad.wide.u32 %rd0, %r9, 128, %rd0;\n  st.global.u32 [%rd0], %r5;\n")));
    const uint64_t out = device.upload(std::vector<uint32_t>(96));
    device.launch_shared("k", {3}, {32}, 128, out);
    expect_each(device.download<uint32_t>(out, 96), [](size_t i) { return uint32_t(4 * (i / 32 * 1000 + i % 32) + 7); });
  });
  test_case("dynamic shared memory starts behind static, aligned", [] {
    Device device(
        text(".extern .shared .align 16 .b8 dynamic[];\n",
             kernel("  .shared .align 4 .b8 fixed[20];\n  mov.u32 %r1, fixed;\n  mov.u32 %r2, dynamic;\n  sub.s32 %r3, %r2, %r1;\n"
                    "  and.b32 %r4, %r2, 15;\n"
                    "  st.shared.u32 [fixed+16], %r3;\n  st.shared.u32 [dynamic], %r4;\n  st.global.v2.u32 [%rd0], {%r3, %r4};\n")));
    const uint64_t out = device.upload(std::vector<uint32_t>(2));
    device.launch_shared("k", {}, {1}, 16, out);
    const std::vector<uint32_t> both = device.download<uint32_t>(out, 2);
    EXPECT(both[0] >= 20 && both[1] == 0, "the distance is ", both[0], ", the misalignment ", both[1]);
    EXPECT(device.module->kernel("k")->static_shared_bytes == 20, "static shared bytes: ", device.module->kernel("k")->static_shared_bytes);
  });
}

void generic_addresses() {
  test_case("cvta and isspacep know global, shared, local and const", [] {
    Device device(text(
        ".shared .align 8 .b8 s[16];\n.const .align 4 .u32 c[2] = {1, 77};\n",
        kernel(
            "  .local .align 8 .b8 l[16];\n  mov.u64 %rd1, s;\n  cvta.shared.u64 %rd2, %rd1;\n  mov.u64 %rd3, l;\n"
            "  cvta.local.u64 %rd4, %rd3;\n"
            "  mov.u64 %rd5, c;\n  cvta.const.u64 %rd6, %rd5;\n  mov.u64 %rd7, %rd0;\n  cvta.global.u64 %rd7, %rd7;\n"
            "  st.u32 [%rd2+4], 11;\n  st.u32 [%rd4+8], 22;\n  cvta.to.shared.u64 %rd8, %rd2;\n  cvta.to.local.u64 %rd9, %rd4;\n"
            "  ld.shared.u32 %r1, [%rd8+4];\n  ld.local.u32 %r2, [%rd9+8];\n  ld.u32 %r3, [%rd6+4];\n  cvta.to.const.u64 %rd10, %rd6;\n"
            "  ld.const.u32 %r4, [%rd10];\n  st.v4.u32 [%rd7], {%r1, %r2, %r3, %r4};\n  mov.u32 %r10, 0;\n"
            "  isspacep.shared %p1, %rd2;\n  isspacep.shared %p2, %rd4;\n  isspacep.local %p3, %rd4;\n  isspacep.local %p4, %rd7;\n"
            "  isspacep.global %p5, %rd7;\n  isspacep.global %p6, %rd2;\n  isspacep.const %p7, %rd6;\n  isspacep.global %p8, %rd4;\n"
            "  @%p1 or.b32 %r10, %r10, 1;\n  @%p2 or.b32 %r10, %r10, 2;\n  @%p3 or.b32 %r10, %r10, 4;\n  @%p4 or.b32 %r10, %r10, 8;\n"
            "  @%p5 or.b32 %r10, %r10, 16;\n  @%p6 or.b32 %r10, %r10, 32;\n  @%p7 or.b32 %r10, %r10, 64;\n  @%p8 or.b32 %r10, %r10, 128;\n"
            "  st.global.u32 [%rd0+16], %r10;\n")));
    const uint64_t out = device.upload(std::vector<uint32_t>(5));
    device.launch("k", {}, {1}, out);
    const std::vector<uint32_t> expected{11, 22, 77, 1, 1 + 4 + 16 + 64};
    expect_each(device.download<uint32_t>(out, 5), [&](size_t i) { return expected[i]; });
  });
}

// out[linear thread of the grid] = the special register, for a grid of 2x3x2 blocks of 5x4x3 threads.
void special_registers() {
  struct Place { uint32_t tid[3], ctaid[3], lane, warp, threads; };
  static constexpr uint32_t ntid[3] = {5, 4, 3}, nctaid[3] = {2, 3, 2};
  struct Register {
    std::string name;
    std::function<uint32_t(const Place&)> value;
  };
  std::vector<Register> all{{"%laneid", [](const Place& p) { return p.lane; }},
                            {"%warpid", [](const Place& p) { return p.warp; }},
                            {"%lanemask_eq", [](const Place& p) { return 1u << p.lane; }},
                            {"%lanemask_lt", [](const Place& p) { return (1u << p.lane) - 1; }},
                            {"%lanemask_le", [](const Place& p) { return (2u << p.lane) - 1; }},
                            {"%lanemask_gt", [](const Place& p) { return -(2u << p.lane); }},
                            {"%lanemask_ge", [](const Place& p) { return -(1u << p.lane); }},
                            {"%dynamic_smem_size", [](const Place&) { return 96u; }}};
  for (int axis = 0; axis < 3; axis++) {
    const std::string tail = text(".", "xyz"[axis]);
    all.push_back({"%tid" + tail, [axis](const Place& p) { return p.tid[axis]; }});
    all.push_back({"%ctaid" + tail, [axis](const Place& p) { return p.ctaid[axis]; }});
    all.push_back({"%ntid" + tail, [axis](const Place&) { return ntid[axis]; }});
    all.push_back({"%nctaid" + tail, [axis](const Place&) { return nctaid[axis]; }});
  }
  for (const Register& r : all)
    test_case(r.name, [r] {
      Device device(text(
          ".visible .entry k(.param .u64 out)\n{\n  .reg .b32 %i, %j, %n;\n  .reg .b64 %o;\n  mov.u32 %i, %ctaid.z;\n",
          "  mad.lo.u32 %i, %i, 3, 0;\n  mov.u32 %j, %ctaid.y;\n  add.u32 %i, %i, %j;\n  mov.u32 %j, %ctaid.x;\n"
          "  mad.lo.u32 %i, %i, 2, %j;\n",
          "  mov.u32 %j, %tid.z;\n  mad.lo.u32 %i, %i, 3, %j;\n  mov.u32 %j, %tid.y;\n  mad.lo.u32 %i, %i, 4, %j;\n  mov.u32 %j, %tid.x;\n",
          "  mad.lo.u32 %i, %i, 5, %j;\n  ld.param.u64 %o, [out];\n  mad.wide.u32 %o, %i, 4, %o;\n  mov.u32 %n, ", r.name,
          ";\n  st.global.u32 [%o], %n;\n  ret;\n}\n"));
      const uint64_t out = device.upload(std::vector<uint32_t>(720));
      device.launch_shared("k", {2, 3, 2}, {5, 4, 3}, 96, out);
      expect_each(device.download<uint32_t>(out, 720), [&](size_t i) {
        const uint32_t thread = i % 60, block = uint32_t(i / 60);
        return r.value({{thread % 5, thread / 5 % 4, thread / 20}, {block % 2, block / 2 % 3, block / 6}, thread % 32, thread / 32, 60});
      });
    });
  test_case("%clock64 and %globaltimer do not run backwards", [] {
    Device device(
        kernel("  mov.u64 %rd1, %clock64;\n  mov.u64 %rd2, %clock64;\n  setp.ge.u64 %p1, %rd2, %rd1;\n  mov.u64 %rd3, %globaltimer;\n"
               "  mov.u64 %rd4, %globaltimer;\n  setp.ge.and.u64 %p2, %rd4, %rd3, %p1;\n  selp.u32 %r1, 1, 0, %p2;\n"
               "  st.global.u32 [%rd0], %r1;\n"));
    expect_each(results_of<uint32_t>(device, {32}, 32), [](size_t) { return 1u; });
  });
}

// What `body` prints to the standard output.
std::string printed(const std::function<void()>& body) {
  std::fflush(stdout);
  std::FILE* file = std::tmpfile();
  {
    struct Redirection {
      explicit Redirection(int to) { dup2(to, 1); }
      ~Redirection() { std::fflush(stdout), dup2(saved, 1), close(saved); }
      int saved = dup(1);
    } redirection(fileno(file));
    body();
  }
  std::rewind(file);
  char line[256] = "";
  const std::string out(line, std::fread(line, 1, sizeof line, file));
  std::fclose(file);
  return out;
}

void printing() {
  test_case("vprintf", [] {
    Device device(text(
        ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n",
        ".global .align 1 .b8 format[12] = {37, 100, 32, 37, 46, 50, 102, 32, 37, 117, 10, 0};\n",  // "%d %.2f %u\n"
        kernel("  .local .align 8 .b8 depot[24];\n  mov.u64 %rd1, depot;\n  cvta.local.u64 %rd1, %rd1;\n  st.u32 [%rd1], -5;\n"
               "  st.f64 [%rd1+8], 0d3FF4000000000000;\n  st.u32 [%rd1+16], %r0;\n  mov.u64 %rd2, format;\n  cvta.global.u64 %rd2, %rd2;\n"
               "  {\n  .param .b64 f;\n  st.param.b64 [f], %rd2;\n  .param .b64 a;\n  st.param.b64 [a], %rd1;\n  .param .b32 r;\n"
               "  call.uni (r), vprintf, (f, a);\n  ld.param.b32 %r1, [r];\n  }\n  st.global.u32 [%rd0], %r1;\n")));
    const std::string out = printed([&] { results_of<uint32_t>(device, {2}, 2); });
    EXPECT(out == "-5 1.25 0\n-5 1.25 1\n", "printed: ", out);
  });
}

}  // namespace

SUITE(spaces) {
  parameters();
  variables();
  generic_addresses();
  special_registers();
  printing();
}

}  // namespace ptxemu::test
