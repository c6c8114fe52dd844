// Loads and stores of a warp whose lanes go to any places: neighbouring, reversed, all to one, in runs, scattered; any lanes active; every
// width; global, shared and generic addresses. What each lane must get is its own element, and nothing else may change.
#include <numeric>
#include <random>

#include "device.h"

namespace ptxemu::test {
namespace {

constexpr int bytes = 4096;
struct Width {
  const char* type;
  int bytes, registers, register_bits;
};
constexpr Width widths[] = {{"u8", 1, 1, 16},     {"u16", 2, 1, 16},     {"u32", 4, 1, 32},     {"u64", 8, 1, 64},   {"v2.u16", 4, 2, 16},
                            {"v2.u32", 8, 2, 32}, {"v4.u32", 16, 4, 32}, {"v2.u64", 16, 2, 64}, {"v4.u16", 8, 4, 16}};

std::string registers(const Width& w) {
  std::string list = w.registers > 1 ? "{" : "";
  for (int i = 0; i < w.registers; i++) list += text(i ? ", " : "", "%v", i);
  return list + (w.registers > 1 ? "}" : "");
}

// One warp: the memory under test begins as a copy of `in`. A load puts each lane's element at out + 16·lane; a store writes the element at
// in2 + 16·lane, and the memory is copied to out afterwards.
std::string kernel(const std::string& space, const Width& w, bool store) {
  const std::string element = registers(w), at = space == "shared" ? "%s" : "%x";
  const std::string access = text(space == "generic" ? "" : "." + space, ".", w.type, " ");
  std::string copy_in, copy_out;
  for (int i = 0; i < bytes; i += 512) {
    copy_in += text("  ld.global.v4.u32 {%c0, %c1, %c2, %c3}, [%in+", i, "];\n  st.shared.v4.u32 [%row+", i, "], {%c0, %c1, %c2, %c3};\n");
    copy_out +=
        text("  ld.shared.v4.u32 {%c0, %c1, %c2, %c3}, [%row+", i, "];\n  st.global.v4.u32 [%out+", i, "], {%c0, %c1, %c2, %c3};\n");
  }
  const bool global = space == "global";
  const std::string test =
      store ? text("  ld.global.", w.type, " ", element, ", [%in2];\n  @%active st", access, "[", at, "], ", element, ";\n")
            : text("  @%active ld", access, element, ", [", at, "];\n  @%active st.global.", w.type, " [%out], ", element, ";\n");
  return text(
      ".visible .entry k(.param .u64 out, .param .u64 in, .param .u64 in2, .param .u64 offsets, .param .u32 mask)\n{\n",
      "  .shared .align 16 .b8 memory[4096];\n  .reg .pred %active;\n  .reg .b32 %c<4>, %lane, %mask, %row, %s;\n"
      "  .reg .b64 %out, %in, %in2, %x, %l;\n",
      "  .reg .b", w.register_bits, " %v<4>;\n  ld.param.u64 %out, [out];\n  ld.param.u64 %in, [in];\n  ld.param.u64 %in2, [in2];\n",
      "  ld.param.u64 %x, [offsets];\n  mov.u32 %lane, %laneid;\n  mad.wide.u32 %x, %lane, 4, %x;\n  ld.global.u32 %s, [%x];\n",
      "  ld.param.u32 %mask, [mask];\n  shr.u32 %mask, %mask, %lane;\n  and.b32 %mask, %mask, 1;\n  setp.ne.u32 %active, %mask, 0;\n",
      "  mov.u32 %row, memory;\n  cvt.u64.u32 %x, %s;\n", global ? "  add.s64 %x, %x, %in;\n" : "", "  add.u32 %s, %s, %row;\n",
      space == "generic" ? "  cvt.u64.u32 %x, %s;\n  cvta.shared.u64 %x, %x;\n" : "",
      "  mad.lo.u32 %row, %lane, 16, %row;\n  mul.wide.u32 %l, %lane, 16;\n  add.s64 %in2, %in2, %l;\n",
      global ? (store ? "" : "  add.s64 %out, %out, %l;\n") : "  add.s64 %out, %out, %l;\n  add.s64 %in, %in, %l;\n",
      global ? "" : copy_in + "  bar.warp.sync 0xffffffff;\n", test, global || !store ? "" : "  bar.warp.sync 0xffffffff;\n" + copy_out,
      "  ret;\n}\n");
}

std::vector<std::vector<uint32_t>> patterns(bool distinct) {
  std::vector<std::vector<uint32_t>> all;
  auto add = [&](auto element) {
    std::vector<uint32_t> p(32);
    for (uint32_t i = 0; i < 32; i++) p[i] = element(i);
    all.push_back(p);
  };
  std::vector<uint32_t> order(bytes / 16);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(9);
  std::shuffle(order.begin(), order.end(), random);
  add([](uint32_t i) { return i; });
  add([](uint32_t i) { return i + 3; });
  add([](uint32_t i) { return 31 - i; });
  add([](uint32_t i) { return 2 * i; });
  add([](uint32_t i) { return i < 11 ? i : i + 5; });
  add([](uint32_t i) { return i ^ 1; });
  add([](uint32_t i) { return i / 4 * 9 + i % 4; });
  add([&](uint32_t i) { return order[i]; });
  if (!distinct) add([](uint32_t) { return 7u; });
  if (!distinct) add([](uint32_t i) { return i / 2; });
  return all;
}

void expect_accesses(const std::string& space, const Width& w, bool store) {
  Device device(kernel(space, w, store));
  std::vector<uint8_t> in(bytes), in2(512);
  for (int i = 0; i < bytes; i++) in[i] = uint8_t(i * 31 + i / 256);
  for (int i = 0; i < 512; i++) in2[i] = uint8_t(255 - i * 3);
  std::mt19937 random(2);
  for (const std::vector<uint32_t>& pattern : patterns(store))
    for (const uint32_t mask : {0xffffffffu, 0x0000ffffu, 0xfffffffeu, 0x7ff8ff1fu, 0x00000400u, uint32_t(random()), 0u}) {
      std::vector<uint32_t> offsets(32);
      for (int i = 0; i < 32; i++) offsets[i] = pattern[i] * w.bytes;
      const uint64_t out = device.upload(std::vector<uint8_t>(bytes)), memory = device.upload(in);
      device.launch("k", {}, {32}, out, memory, device.upload(in2), device.upload(offsets), mask);
      std::vector<uint8_t> expected = store ? in : std::vector<uint8_t>(bytes);
      for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < w.bytes && (mask >> lane & 1); i++) {
          if (store) expected[offsets[lane] + i] = in2[lane * 16 + i];
          else expected[lane * 16 + i] = in[offsets[lane] + i];
        }
      expect_each(
          device.download<uint8_t>(store && space == "global" ? memory : out, bytes), [&](size_t i) { return expected[i]; },
          text("mask ", std::hex, mask, std::dec, ", first offsets ", offsets[0], ", ", offsets[1], ": byte"));
      for (const Memory::Range& r : device.memory.allocations()) device.memory.release(r.address);
    }
}

}  // namespace

SUITE(accesses) {
  for (const char* space : {"global", "shared", "generic"})
    for (const Width& w : widths)
      for (const bool store : {false, true})
        test_case(text(store ? "st." : "ld.", space, ".", w.type, " of any lanes to any places"),
                  [=] { expect_accesses(space, w, store); });
}

}  // namespace ptxemu::test
