#include "findings.h"

#include <algorithm>

namespace ptxemu::test {
namespace {

std::string kernel(const std::string& body, const std::string& before) {
  return text(".file 1 \"kernel.cu\"\n", before, ".visible .entry k(.param .u64 out, .param .u64 in, .param .u64 fresh)\n{\n",
              "  .shared .align 16 .b8 words[512];\n", own_word,
              "  ld.param.u64 %rd1, [in];\n  ld.param.u64 %rd2, [fresh];\n  mov.u32 %r8, words;\n",
              "  mad.lo.u32 %r9, %r0, 4, %r8;\n  mov.u32 %r7, %ctaid.x;\n", body, "  ret;\n}\n");
}

// Puts .loc before the marked line.
std::string located(std::string body) {
  const size_t mark = body.find("//!");
  if (mark == std::string::npos) return body;
  const size_t line = body.rfind('\n', mark);
  return body.insert(line == std::string::npos ? 0 : line + 1, "  .loc 1 42 7\n");
}

struct Setup {
  Setup(const std::string& body, const std::string& before, int target) : device(kernel(body, before), target) {
    out = device.upload(std::vector<uint8_t>(1024));
    in = device.upload(std::vector<uint8_t>(1000));
    fresh = device.allocate(1024);
    device.options.threads = 1;  // the first block to be wrong is then always the same
  }
  void launch(Shape s) { device.launch_shared("k", {s.blocks}, {s.threads}, s.dynamic_shared, out, in, fresh); }
  Device device;
  uint64_t out, in, fresh;
};

}  // namespace

void finding(const std::string& name, ErrorKind kind, Where where, const std::string& body, Shape shape, std::vector<std::string> words,
             const std::string& before) {
  test_case(name, [=] {
    for (const Order order : {Order::backward, Order::random}) {  // found in any order, though perhaps at the other access
      Setup s(body, before, shape.target);
      s.device.options.warp_order = s.device.options.block_order = order;
      expect_error(kind, [&] { s.launch(shape); });
    }
    Setup s(located(body), before, shape.target);
    const Error e = expect_error(kind, [&] { s.launch(shape); });
    const std::string what = e.what();
    std::vector<std::string> expected = words;
    EXPECT(e.kernel == "k", "kernel: ", e.kernel, " in: ", what);
    EXPECT(e.block.x == where.block && e.block.y == 0 && e.block.z == 0, "block: ", e.block.x, " in: ", what);
    EXPECT(where.thread == -1 ? e.thread >= 0 : where.thread == -2 || e.thread == where.thread, "thread: ", e.thread, " in: ", what);
    const std::string& ptx = s.device.ptx;
    const size_t mark = ptx.find("//!");
    if (mark != std::string::npos) {
      const int line = 1 + int(std::count(ptx.begin(), ptx.begin() + mark, '\n'));
      EXPECT(e.ptx_line == line, "PTX line: expected ", line, " but received ", e.ptx_line, " in: ", what);
      EXPECT(e.source == "kernel.cu:42", "source: ", e.source, " in: ", what);
      expected.insert(expected.end(), {text("line ", line), "kernel.cu:42"});
      const size_t start = ptx.find_first_not_of(" ", ptx.rfind('\n', mark) + 1);
      expected.push_back(ptx.substr(start, ptx.find_first_of(" ;", start) - start));  // the opcode or guard
    }
    expected.insert(expected.end(), {"kernel k", text("block (", where.block, ", 0, 0)")});
    if (where.thread >= 0) expected.push_back(text("thread (", where.thread, ", 0, 0)"));
    for (const std::string& word : expected) EXPECT(what.find(word) != std::string::npos, "no \"", word, "\" in: ", what);
  });
}

void clean(const std::string& name, const std::string& body, Shape shape, const std::string& before) {
  test_case(name, [=] {
    for (const Order order : {Order::forward, Order::backward, Order::random}) {
      Setup s(body, before, shape.target);
      s.device.options.warp_order = s.device.options.block_order = order;
      s.launch(shape);
    }
  });
}

}  // namespace ptxemu::test
