// cp.async: copies from global to shared memory that are done only after a wait. PTX ISA 9.0, "cp.async".
// With a src-size below cp-size the rest is filled with zeros, and src-size 0 reads nothing.
#include "device.h"

namespace ptxemu::test {
namespace {

// Each thread copies 16 bytes in parts of `bytes`; `size` is an optional fourth operand, %r8 = 4·(tid % 5).
std::string kernel(const std::string& copies, const std::string& wait) {
  return text(
      ".visible .entry k(.param .u64 out, .param .u64 in)\n{\n  .shared .align 16 .b8 tile[1024];\n", own_word,
      "  ld.param.u64 %rd0, [out];\n  mad.wide.u32 %rd0, %r0, 16, %rd0;\n  ld.param.u64 %rd1, [in];\n  mad.wide.u32 %rd1, %r0, 16, %rd1;\n"
      "  mov.u32 %r1, tile;\n  mad.lo.u32 %r1, %r0, 16, %r1;\n  rem.u32 %r8, %r0, 5;\n  shl.b32 %r8, %r8, 2;\n",
      copies, wait, "  ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];\n  st.global.v4.u32 [%rd0], {%r2, %r3, %r4, %r5};\n  ret;\n}\n");
}

std::string copy(const std::string& op, int bytes, const std::string& size = "") {
  std::string s;
  for (int at = 0; at < 16; at += bytes) s += text("  ", op, " [%r1+", at, "], [%rd1+", at, "], ", bytes, size, ";\n");
  return s;
}

void expect_copied(const std::string& body, const std::function<uint32_t(size_t word, uint32_t from)>& expected) {
  Device device(body, 80);
  std::vector<uint32_t> in(256);
  for (size_t i = 0; i < in.size(); i++) in[i] = uint32_t(i * 7 + 1);
  const uint64_t out = device.upload(std::vector<uint32_t>(256));
  device.launch("k", {}, {64}, out, device.upload(in));
  expect_each(device.download<uint32_t>(out, 256), [&](size_t i) { return expected(i, in[i]); }, "word");
}

const std::string commit = "  cp.async.commit_group;\n";

}  // namespace

SUITE(async) {
  struct Form {
    const char* op;
    int bytes;
  };
  for (const Form& f : {Form{"cp.async.ca.shared.global", 4},
                        {"cp.async.ca.shared.global", 8},
                        {"cp.async.ca.shared.global", 16},
                        {"cp.async.cg.shared.global", 16},
                        {"cp.async.cg.shared.global.L2::128B", 16},
                        {"cp.async.ca.shared.global.L2::256B", 4}}) {
    test_case(text(f.op, " of ", f.bytes, " bytes, wait_all"),
              [f] { expect_copied(kernel(copy(f.op, f.bytes), "  cp.async.wait_all;\n"), [](size_t, uint32_t from) { return from; }); });
    test_case(text(f.op, " of ", f.bytes, " bytes, commit_group and wait_group"), [f] {
      expect_copied(kernel(copy(f.op, f.bytes) + commit, "  cp.async.wait_group 0;\n"), [](size_t, uint32_t from) { return from; });
    });
  }
  test_case("cp.async with a smaller src-size fills with zeros", [] {
    expect_copied(kernel(copy("cp.async.cg.shared.global", 16, ", %r8"), "  cp.async.wait_all;\n"),
                  [](size_t i, uint32_t from) { return i % 4 < i / 4 % 5 ? from : 0; });
  });
  test_case("cp.async of src-size 0 does not touch its source", [] {
    expect_copied(
        kernel("  mov.u64 %rd1, 0;\n  mov.u32 %r8, 0;\n" + copy("cp.async.ca.shared.global", 8, ", %r8"), "  cp.async.wait_all;\n"),
        [](size_t, uint32_t) { return 0u; });
  });
  test_case("cp.async.wait_group 1 leaves the youngest group open", [] {
    const std::string first = copy("cp.async.cg.shared.global", 16) + commit;
    const std::string second = "  cp.async.ca.shared.global [tile+1020], [%rd1], 4;\n" + commit;
    Device device(kernel(first + "  setp.ne.u32 %p2, %r0, 0;\n  @%p2 bra WAIT;\n" + second + "  bra READ;\nWAIT:\n" + commit + "READ:\n",
                         "  cp.async.wait_group 1;\n"),
                  80);
    const std::vector<uint32_t> in(256, 3);
    const uint64_t out = device.upload(std::vector<uint32_t>(256));
    device.launch("k", {}, {32}, out, device.upload(in));  // 32 threads: nobody else's row reaches tile + 1020
    expect_each(device.download<uint32_t>(out, 128), [](size_t) { return 3u; }, "word");
  });
  test_case("what cp.async brought is seen by other warps after wait and bar.sync", [] {
    const std::string other =
        "  cp.async.wait_all;\n  bar.sync 0;\n  xor.b32 %r1, %r0, 32;\n  mov.u32 %r2, tile;\n  mad.lo.u32 %r1, %r1, 16, %r2;\n";
    Device device(kernel(copy("cp.async.cg.shared.global", 16), other), 80);
    std::vector<uint32_t> in(256);
    for (size_t i = 0; i < in.size(); i++) in[i] = uint32_t(i);
    const uint64_t out = device.upload(std::vector<uint32_t>(256));
    device.launch("k", {}, {64}, out, device.upload(in));
    expect_each(device.download<uint32_t>(out, 256), [](size_t i) { return uint32_t(i ^ 128); }, "word");
  });
}

}  // namespace ptxemu::test
