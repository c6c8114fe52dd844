// atom and red: every operation and type in global, shared and generic memory; many threads on one word.
// PTX ISA 9.0, "Parallel Synchronization and Communication Instructions".
#include <algorithm>

#include "device.h"
#include "rows.h"

namespace ptxemu::test {
namespace {

enum class Space { global, shared, generic };

// Stores %a into the thread's own cell, runs the instruction on it; %d = what it returned, or the cell afterwards.
std::string on_a_cell(Space space, int bits, const std::string& instruction, bool returned) {
  const std::string type = text(".b", bits);
  const std::string address = space == Space::shared
                                  ? "{ .shared .align 8 .b8 cells[1280]; .reg .b32 %s; mov.u32 %s, cells; mad.lo.u32 %s, %t, 8, %s; "
                                  : text("{ .reg .b64 %s; ld.param.u64 %s, [out]; mad.wide.u32 %s, %i, ", bits / 8, ", %s; ");
  const std::string state = space == Space::shared ? ".shared" : ".global";
  return text(address, "st", state, type, " [%s], %a; ", instruction, "; ", returned ? "" : text("ld", state, type, " %d, [%s]; "), "}");
}

const char* name(Space s) { return s == Space::global ? ".global" : s == Space::shared ? ".shared" : ""; }

template <class T, class F>
void operation(const std::string& op, F f, std::vector<Space> spaces = {Space::global, Space::shared, Space::generic}) {
  constexpr int bits = sizeof(T) * 8;
  for (const Space s : spaces) {
    row(on_a_cell(s, bits, text("atom", name(s), ".", op, " %d, [%s], %b"), true), [](T a, T) { return a; });
    row(on_a_cell(s, bits, text("atom", name(s), ".", op, " %d, [%s], %b"), false), f);
    if (op.substr(0, 4) != "exch") row(on_a_cell(s, bits, text("red", name(s), ".", op, " [%s], %b"), false), f);
  }
}

template <class T> void swap_if_equal() {
  constexpr int bits = sizeof(T) * 8;
  for (const Space s : {Space::global, Space::shared, Space::generic}) {
    const std::string cas = text("atom", name(s), ".cas.b", bits, " %d, [%s], %b, %c");
    row(on_a_cell(s, bits, cas, true), [](T a, T, T) { return a; });
    row(on_a_cell(s, bits, cas, false), [](T a, T b, T c) { return a == b ? c : a; });
    row(on_a_cell(s, bits, text("atom", name(s), ".cas.b", bits, " %d, [%s], %a, %c"), false), [](T, T, T c) { return c; });
  }
}

template <class T> void whole_numbers(const std::string& t) {
  using U = std::make_unsigned_t<T>;
  if (t != "s64") operation<T>("add." + t, [](T a, T b) { return T(U(a) + U(b)); });
  operation<T>("min." + t, [](T a, T b) { return std::min(a, b); });
  operation<T>("max." + t, [](T a, T b) { return std::max(a, b); });
}
template <class T> void logic(const std::string& t) {
  operation<T>("and." + t, [](T a, T b) { return a & b; });
  operation<T>("or." + t, [](T a, T b) { return a | b; });
  operation<T>("xor." + t, [](T a, T b) { return a ^ b; });
  operation<T>("exch." + t, [](T, T b) { return b; });
  swap_if_equal<T>();
}

void floats() {
  // Global f32 sums flush subnormals, shared ones do not.
  operation<float>("add.f32", [](float a, float b) { return flush(flush(a) + flush(b)); }, {Space::global});
  operation<float>("add.f32", [](float a, float b) { return a + b; }, {Space::shared});
  operation<double>("add.f64", [](double a, double b) { return a + b; });
  operation<F16>("add.noftz.f16", [](F16 a, F16 b) { return F16::round(sum_to_odd(a, b)); });
  operation<BF16>("add.noftz.bf16", [](BF16 a, BF16 b) { return BF16::round(sum_to_odd(a, b)); });
  operation<F16x2>("add.noftz.f16x2",
                   [](F16x2 a, F16x2 b) { return F16x2{F16::round(sum_to_odd(a.low, b.low)), F16::round(sum_to_odd(a.high, b.high))}; });
  operation<BF16x2>("add.noftz.bf16x2", [](BF16x2 a, BF16x2 b) {
    return BF16x2{BF16::round(sum_to_odd(a.low, b.low)), BF16::round(sum_to_odd(a.high, b.high))};
  });
}

void contention() {
  test_case("every thread of the grid gets another ticket", [] {
    Device device(text(".visible .entry k(.param .u64 out, .param .u64 counter)\n{\n", own_word,
                       "  mov.u32 %r1, %ctaid.x;\n  mad.wide.u32 %rd0, %r1, 640, %rd0;\n  ld.param.u64 %rd1, [counter];\n"
                       "  atom.global.add.u32 %r2, [%rd1], 1;\n  st.global.u32 [%rd0], %r2;\n  ret;\n}\n"));
    const uint64_t out = device.upload(std::vector<uint32_t>(160 * 7)), counter = device.upload(std::vector<uint32_t>{0});
    device.launch("k", {7}, {160}, out, counter);
    std::vector<uint32_t> tickets = device.download<uint32_t>(out, 160 * 7);
    std::sort(tickets.begin(), tickets.end());
    expect_each(tickets, [](size_t i) { return uint32_t(i); }, "sorted ticket");
    EXPECT(device.download<uint32_t>(counter, 1)[0] == 1120, "the counter");
  });
  test_case("a block sums in shared memory, its last thread adds the sum to the grid's", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n  .shared .align 4 .u32 sum;\n", own_word,
                       "  ld.param.u64 %rd0, [out];\n  setp.ne.u32 %p1, %r0, 0;\n  @!%p1 st.shared.u32 [sum], 0;\n  bar.sync 0;\n"
                       "  red.shared.add.u32 [sum], %r0;\n  bar.sync 0;\n  @%p1 bra DONE;\n  ld.shared.u32 %r1, [sum];\n  "
                       "red.global.add.u32 [%rd0], %r1;\n"
                       "  red.global.max.u32 [%rd0+4], %r1;\n  atom.global.inc.u32 %r2, [%rd0+8], 3;\nDONE:\n  ret;\n}\n"));
    const uint64_t out = device.upload(std::vector<uint32_t>(3));
    device.launch("k", {6}, {100}, out);
    const std::vector<uint32_t> expected{6 * 4950, 4950, 6 % 4};
    expect_each(device.download<uint32_t>(out, 3), [&](size_t i) { return expected[i]; });
  });
}

}  // namespace

SUITE(atomics) {
  whole_numbers<int32_t>("s32");
  whole_numbers<uint32_t>("u32");
  whole_numbers<int64_t>("s64");
  whole_numbers<uint64_t>("u64");
  logic<uint32_t>("b32");
  logic<uint64_t>("b64");
  operation<uint32_t>("inc.u32", [](uint32_t a, uint32_t b) { return a >= b ? 0 : a + 1; });
  operation<uint32_t>("dec.u32", [](uint32_t a, uint32_t b) { return a == 0 || a > b ? b : a - 1; });
  operation<uint32_t>("relaxed.gpu.add.u32", [](uint32_t a, uint32_t b) { return a + b; }, {Space::generic});
  operation<uint32_t>("cta.add.u32", [](uint32_t a, uint32_t b) { return a + b; }, {Space::generic});
  floats();
  contention();
}

}  // namespace ptxemu::test
