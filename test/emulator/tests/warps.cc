// Exchange between the lanes of a warp: shfl, vote, match, redux, activemask, elect.
// PTX ISA 9.0, "shfl.sync", "vote.sync", "match.sync", "redux.sync", "activemask", "elect.sync".
#include <bit>
#include <random>

#include "device.h"

namespace ptxemu::test {
namespace {

constexpr int warps = 3;

// One warp's operands; the instruction is executed by the lanes of `mask`.
struct Lanes {
  std::vector<uint32_t> a, b, c;
  uint32_t mask;
  bool in(int lane) const { return mask >> lane & 1; }
};

// d = instruction(a, b, c) with membermask `mask`, by its lanes only; %q is the predicate a & 1.
void expect_warp(const std::string& instruction, uint32_t mask, uint32_t c_and, uint32_t c_or,
                 const std::function<uint32_t(const Lanes&, int lane)>& expected) {
  const std::string symbol = "MASK";
  std::string body = instruction;
  for (size_t at = 0; (at = body.find(symbol, at)) != std::string::npos;) body.replace(at, symbol.size(), text(mask));
  Device device(text(
      ".visible .entry k(.param .u64 out, .param .u64 pa, .param .u64 pb, .param .u64 pc)\n{\n  .reg .pred %p, %q;\n",
      "  .reg .b32 %a, %b, %c, %d, %lane;\n  .reg .b64 %o, %x;\n  mov.u32 %a, %tid.x;\n  mul.wide.u32 %x, %a, 4;\n",
      "  ld.param.u64 %o, [pa];\n  add.s64 %o, %o, %x;\n  ld.global.u32 %a, [%o];\n  ld.param.u64 %o, [pb];\n  add.s64 %o, %o, %x;\n",
      "  ld.global.u32 %b, [%o];\n  ld.param.u64 %o, [pc];\n  add.s64 %o, %o, %x;\n  ld.global.u32 %c, [%o];\n  ld.param.u64 %o, [out];\n",
      "  add.s64 %o, %o, %x;\n  mov.u32 %lane, %laneid;\n  shr.u32 %d, ", mask,
      ", %lane;\n  and.b32 %d, %d, 1;\n  setp.eq.u32 %p, %d, 0;\n", "  @%p bra DONE;\n  and.b32 %d, %a, 1;\n  setp.eq.u32 %q, %d, 1;\n  ",
      body, "\n  st.global.u32 [%o], %d;\nDONE:\n  ret;\n}\n"));
  std::mt19937 random(3);
  std::vector<uint32_t> a, b, c;
  for (int i = 0; i < warps * 32; i++) {
    // The last warp agrees on a; the one before has few different values.
    a.push_back(i >= (warps - 1) * 32 ? 0x80000011 : i >= (warps - 2) * 32 ? random() % 3 : random());
    b.push_back(random() % 5 ? random() % 32 : random());
    c.push_back((random() & c_and) | c_or);
  }
  const uint64_t out = device.upload(std::vector<uint32_t>(a.size()));
  device.launch("k", {}, {warps * 32}, out, device.upload(a), device.upload(b), device.upload(c));
  const std::vector<uint32_t> d = device.download<uint32_t>(out, a.size());
  for (int w = 0; w < warps; w++) {
    auto part = [w](const std::vector<uint32_t>& v) { return std::vector<uint32_t>(v.begin() + w * 32, v.begin() + (w + 1) * 32); };
    const Lanes lanes{part(a), part(b), part(c), mask};
    expect_each(part(d), [&](size_t lane) { return lanes.in(int(lane)) ? expected(lanes, int(lane)) : 0; }, text("warp ", w, ", lane"));
  }
}

constexpr uint32_t masks[] = {0xffffffff, 0x0000ffff, 0x5a5a5a5a, 0x80000001};

void shuffles() {
  struct Source {
    int lane;
    bool in_range;
  };
  auto source = [](const std::string& mode, int lane, uint32_t b, uint32_t c) -> Source {
    const int bval = b & 31, cval = c & 31, segment = c >> 8 & 31;
    const int highest = (lane & segment) | (cval & ~segment), lowest = lane & segment;
    const int j = mode == "up" ? lane - bval : mode == "down" ? lane + bval : mode == "bfly" ? lane ^ bval : lowest | (bval & ~segment);
    const bool in_range = mode == "up" ? j >= highest : j <= highest;
    return {in_range ? j : lane, in_range};
  };
  for (const std::string mode : {"up", "down", "bfly", "idx"}) {
    auto value = [=](const Lanes& w, int lane) { return w.a[source(mode, lane, w.b[lane], w.c[lane]).lane]; };
    const std::string op = text("shfl.sync.", mode, ".b32 ");
    test_case(op + "with any clamp and segments", [=] { expect_warp(op + "%d, %a, %b, %c, MASK;", ~0u, 0x1f1f, 0, value); });
    for (const int width : {1, 2, 4, 8, 16, 32})
      test_case(text(op, "of width ", width), [=] {
        const uint32_t c = (32 - width) << 8 | (mode == "up" ? 0 : 31);
        expect_warp(text(op, "%d, %a, %b, ", c, ", MASK;"), ~0u, 0, c, value);
      });
    test_case(op + "says whether the lane is in range", [=] {
      expect_warp(text("{ .reg .pred %r; ", op, "%a|%r, %a, %b, %c, MASK; selp.u32 %d, 1, 0, %r; }"), ~0u, 0x1f1f, 0,
                  [=](const Lanes& w, int lane) { return uint32_t(source(mode, lane, w.b[lane], w.c[lane]).in_range); });
    });
  }
  test_case("shfl.sync among half of the warp", [] {
    expect_warp("shfl.sync.bfly.b32 %d, %a, 3, 31, MASK;", 0x00ff00ff, 0, 0, [](const Lanes& w, int lane) { return w.a[lane ^ 3]; });
  });
  test_case("shfl.sync writes its own source", [] {
    expect_warp("shfl.sync.down.b32 %a, %a, 1, 31, MASK; mov.u32 %d, %a;", ~0u, 0, 0,
                [](const Lanes& w, int lane) { return w.a[std::min(lane + 1, 31)]; });
  });
  test_case("a block of 40 threads: the second warp has 8 lanes", [] {
    Device device(text(
        ".visible .entry k(.param .u64 out)\n{\n", own_word,
        "  setp.lt.u32 %p1, %r0, 32;\n  selp.b32 %r3, 0xffffffff, 0xff, %p1;\n  shfl.sync.bfly.b32 %r1, %r0, 7, 31, %r3;\n"
        "  activemask.b32 %r2;\n  xor.b32 %r2, %r2, %r3;\n  mad.lo.u32 %r1, %r2, 1000, %r1;\n  st.global.u32 [%rd0], %r1;\n  ret;\n}\n"));
    expect_each(results_of<uint32_t>(device, {40}, 40), [](size_t i) { return uint32_t(i ^ 7); });
  });
}

void votes() {
  for (const uint32_t mask : masks) {
    auto all = [](const Lanes& w, uint32_t wanted) {
      for (int i = 0; i < 32; i++)
        if (w.in(i) && (w.a[i] & 1) != wanted) return false;
      return true;
    };
    auto vote = [mask](const std::string& mode, const std::string& source, const std::function<bool(const Lanes&)>& expected) {
      test_case(text("vote.sync.", mode, " of ", source, " by ", std::hex, mask), [=] {
        expect_warp(text("{ .reg .pred %r; vote.sync.", mode, ".pred %r, ", source, ", MASK; selp.u32 %d, 1, 0, %r; }"), mask, 0, 0,
                    [=](const Lanes& w, int) { return uint32_t(expected(w)); });
      });
    };
    vote("all", "%q", [=](const Lanes& w) { return all(w, 1); });
    vote("any", "%q", [=](const Lanes& w) { return !all(w, 0); });
    vote("uni", "%q", [=](const Lanes& w) { return all(w, 0) || all(w, 1); });
    vote("all", "!%q", [=](const Lanes& w) { return all(w, 0); });
    test_case(text("vote.sync.ballot by ", std::hex, mask), [=] {
      expect_warp("vote.sync.ballot.b32 %d, %q, MASK;", mask, 0, 0, [](const Lanes& w, int) {
        uint32_t d = 0;
        for (int i = 0; i < 32; i++) d |= (w.in(i) ? w.a[i] & 1 : 0) << i;
        return d;
      });
    });
    test_case(text("activemask by ", std::hex, mask),
              [=] { expect_warp("activemask.b32 %d;", mask, 0, 0, [](const Lanes& w, int) { return w.mask; }); });
    test_case(text("elect.sync by ", std::hex, mask), [=] {
      expect_warp("{ .reg .pred %r; elect.sync %d|%r, MASK; @%r add.s32 %d, %d, 100; }", mask, 0, 0, [](const Lanes& w, int lane) {
        const int leader = std::countr_zero(w.mask);
        return uint32_t(leader + (lane == leader ? 100 : 0));
      });
    });
  }
}

void matches() {
  auto alike = [](const Lanes& w, int lane) {
    uint32_t d = 0;
    for (int i = 0; i < 32; i++) d |= uint32_t(w.in(i) && w.a[i] == w.a[lane]) << i;
    return d;
  };
  for (const uint32_t mask : masks) {
    test_case(text("match.any.sync.b32 by ", std::hex, mask), [=] { expect_warp("match.any.sync.b32 %d, %a, MASK;", mask, 0, 0, alike); });
    test_case(text("match.any.sync.b64 by ", std::hex, mask),
              [=] { expect_warp("{ .reg .b64 %w; mov.b64 %w, {1, %a}; match.any.sync.b64 %d, %w, MASK; }", mask, 0, 0, alike); });
    test_case(text("match.all.sync.b32 by ", std::hex, mask), [=] {
      expect_warp("{ .reg .pred %r; match.all.sync.b32 %d|%r, %a, MASK; @%r xor.b32 %d, %d, 0x10; }", mask, 0, 0,
                  [=](const Lanes& w, int lane) { return alike(w, lane) == w.mask ? w.mask ^ 0x10 : 0; });
    });
  }
}

void reductions() {
  struct Operation {
    const char* name;
    uint32_t (*f)(uint32_t, uint32_t);
  };
  const Operation operations[] = {{"add.u32", [](uint32_t x, uint32_t y) { return x + y; }},
                                  {"add.s32", [](uint32_t x, uint32_t y) { return x + y; }},
                                  {"min.u32", [](uint32_t x, uint32_t y) { return std::min(x, y); }},
                                  {"max.u32", [](uint32_t x, uint32_t y) { return std::max(x, y); }},
                                  {"min.s32", [](uint32_t x, uint32_t y) { return uint32_t(std::min(int32_t(x), int32_t(y))); }},
                                  {"max.s32", [](uint32_t x, uint32_t y) { return uint32_t(std::max(int32_t(x), int32_t(y))); }},
                                  {"and.b32", [](uint32_t x, uint32_t y) { return x & y; }},
                                  {"or.b32", [](uint32_t x, uint32_t y) { return x | y; }},
                                  {"xor.b32", [](uint32_t x, uint32_t y) { return x ^ y; }}};
  for (const Operation& op : operations)
    for (const uint32_t mask : masks)
      test_case(text("redux.sync.", op.name, " by ", std::hex, mask), [=] {
        expect_warp(text("redux.sync.", op.name, " %d, %a, MASK;"), mask, 0, 0, [op](const Lanes& w, int) {
          uint32_t d = 0;
          for (int i = 0, first = 1; i < 32; i++)
            if (w.in(i)) d = first ? w.a[i] : op.f(d, w.a[i]), first = 0;
          return d;
        });
      });
}

}  // namespace

SUITE(warps) {
  shuffles();
  votes();
  matches();
  reductions();
}

}  // namespace ptxemu::test
