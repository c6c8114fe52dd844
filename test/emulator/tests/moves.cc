// mov between registers and vectors of registers, ld and st of every type, vector and cache modifier.
// PTX ISA 9.0, "Data Movement and Conversion Instructions".
#include "device.h"
#include "rows.h"

namespace ptxemu::test {
namespace {

struct Element {
  const char* type;
  int bytes;
};
constexpr Element elements[] = {{"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2}, {"s16", 2}, {"b32", 4},
                                {"u32", 4}, {"s32", 4}, {"f32", 4}, {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}};

std::string registers(const char* stem, int n) {
  std::string list = n > 1 ? "{" : "";
  for (int i = 0; i < n; i++) list += text(i ? ", " : "", "%", stem, i);
  return list + (n > 1 ? "}" : "");
}

// out[i] = in[i] for vectors of n elements.
std::string copy_kernel(const std::string& load, const std::string& store, Element e, int n) {
  const std::string vector = n > 1 ? text(".v", n, ".", e.type) : text(".", e.type);
  return text(".visible .entry k(.param .u64 out, .param .u64 in)\n{\n  .reg .b32 %i;\n  .reg .b64 %o, %s;\n  .reg .b",
              std::max(e.bytes * 8, 16),
              " %x<4>;\n  ld.param.u64 %o, [out];\n  ld.param.u64 %s, [in];\n  mov.u32 %i, %tid.x;\n  mad.wide.u32 %o, %i, ", e.bytes * n,
              ", %o;\n  mad.wide.u32 %s, %i, ", e.bytes * n, ", %s;\n  ", load, vector, " ", registers("x", n), ", [%s];\n  ", store,
              vector, " [%o], ", registers("x", n), ";\n  ret;\n}\n");
}

void expect_copy(const std::string& body, size_t bytes_each) {
  Device device(body);
  const size_t threads = 77, bytes = threads * bytes_each;
  std::vector<uint8_t> in(bytes);
  for (size_t i = 0; i < bytes; i++) in[i] = uint8_t(i * 37 + i / 251);
  const uint64_t out = device.upload(std::vector<uint8_t>(bytes)), from = device.upload(in);
  device.launch("k", {}, {uint32_t(threads)}, out, from);
  expect_each(device.download<uint8_t>(out, bytes), [&](size_t i) { return in[i]; }, "byte");
}

void copies() {
  for (const Element& e : elements)
    for (const int n : {1, 2, 4})
      if (e.bytes * n <= 16)
        test_case(text("ld.global and st.global of ", n, " ", e.type),
                  [=] { expect_copy(copy_kernel("ld.global", "st.global", e, n), e.bytes * n); });
  const Element word{"u32", 4};
  for (const char* load : {"ld", "ld.global.nc", "ld.global.ca", "ld.global.cg", "ld.global.cs", "ld.global.lu", "ld.global.cv",
                           "ld.volatile.global", "ld.relaxed.gpu.global", "ld.acquire.gpu.global", "ld.global.L1::no_allocate",
                           "ld.global.L1::evict_last", "ld.global.L2::128B", "ld.global.nc.L1::no_allocate.L2::128B", "ldu.global"})
    test_case(text(load, ".u32"), [=] { expect_copy(copy_kernel(load, "st.global", word, 1), 4); });
  for (const char* store : {"st", "st.global.wb", "st.global.cg", "st.global.cs", "st.global.wt", "st.volatile.global",
                            "st.relaxed.gpu.global", "st.release.gpu.global", "st.global.L1::no_allocate"})
    test_case(text(store, ".u32"), [=] { expect_copy(copy_kernel("ld.global", store, word, 1), 4); });
}

// A load narrower than its register fills it: zeros or the sign.
template <class From, class To> void widening(const std::string& type) {
  test_case(text("ld.global.", type, " into ", sizeof(To) * 8, " bits"), [type] {
    Device device(text(".visible .entry k(.param .u64 out, .param .u64 in)\n{\n  .reg .b32 %i;\n  .reg .b64 %o, %s;\n  .reg .b",
                       sizeof(To) * 8,
                       " %x;\n  ld.param.u64 %o, [out];\n  ld.param.u64 %s, [in];\n  mov.u32 %i, %tid.x;\n  mad.wide.u32 %o, %i, ",
                       sizeof(To), ", %o;\n  mad.wide.u32 %s, %i, ", sizeof(From), ", %s;\n  ld.global.", type, " %x, [%s];\n  st.global.b",
                       sizeof(To) * 8, " [%o], %x;\n  ret;\n}\n"));
    std::vector<From> in;
    for (int i = 0; i < 64; i++) in.push_back(From(uint64_t(i) * 0x0123456789abcdef >> 7));
    const uint64_t out = device.upload(std::vector<To>(64)), from = device.upload(in);
    device.launch("k", {}, {64}, out, from);
    expect_each(device.download<To>(out, 64), [&](size_t i) { return To(in[i]); });
  });
}

void packing() {
  row("{ .reg .b16 %l, %h; mov.b32 {%l, %h}, %a; mov.b32 %d, {%h, %l}; }", [](uint32_t a) { return a << 16 | a >> 16; });
  row("{ .reg .b32 %l, %h; mov.b64 {%l, %h}, %a; mov.b64 %d, {%h, %l}; }", [](uint64_t a) { return a << 32 | a >> 32; });
  row("{ .reg .b16 %p, %q, %r, %s; mov.b64 {%p, %q, %r, %s}, %a; mov.b64 %d, {%s, %r, %q, %p}; }", [](uint64_t a) {
    uint64_t d = 0;
    for (int i = 0; i < 4; i++) d |= (a >> 16 * i & 0xffff) << (48 - 16 * i);
    return d;
  });
  row("{ .reg .b32 %l; mov.b64 {%l, _}, %a; mov.b32 %d, %l; }", [](uint64_t a) { return uint32_t(a); });
  row("mov.b64 {_, %d}, %a", [](uint64_t a) { return uint32_t(a >> 32); });
  row("{ .reg .b16 %h; mov.b32 {_, %h}, %a; mov.b32 %d, {%h, %h}; }", [](uint32_t a) { return (a >> 16) * 0x10001; });
  row("mov.b32 %d, {%a, %b}", [](uint16_t a, uint16_t b) { return a | uint32_t(b) << 16; });
  row("mov.b64 %d, {%a, %b}", [](uint32_t a, uint32_t b) { return a | uint64_t(b) << 32; });
  for (const char* t : {"u16", "s16", "b16"}) row(text("mov.", t), [](uint16_t a) { return a; });
  for (const char* t : {"u32", "s32", "b32", "f32"}) row(text("mov.", t), [](uint32_t a) { return a; });
  for (const char* t : {"u64", "s64", "b64", "f64"}) row(text("mov.", t), [](uint64_t a) { return a; });
  row("{ mov.u32 %d, 0xFFFFFFFE; add.s32 %d, %d, %a; }", [](uint32_t a) { return a - 2; });
  row("{ mov.f32 %d, 0fC0490FDB; add.f32 %d, %d, %a; }", [](float a) { return a - 3.14159274f; });
  row("{ mov.f64 %d, 0dC000000000000000; add.f64 %d, %d, %a; }", [](double a) { return a - 2; });
  row("{ mov.b16 %d, 0x3C00; add.f16 %d, %d, %a; }", [](F16 a) { return F16::round(a + 1); });
}

}  // namespace

SUITE(moves) {
  packing();
  copies();
  widening<int8_t, int16_t>("s8");
  widening<uint8_t, uint16_t>("u8");
  widening<int8_t, int32_t>("s8");
  widening<uint8_t, uint32_t>("u8");
  widening<uint8_t, uint32_t>("b8");
  widening<int8_t, int64_t>("s8");
  widening<int16_t, int32_t>("s16");
  widening<uint16_t, uint32_t>("u16");
  widening<int16_t, int64_t>("s16");
  widening<int32_t, int64_t>("s32");
  widening<uint32_t, uint64_t>("u32");

  // st.u8 and st.u16 write the low bits of a wider register and nothing beside them.
  test_case("st.global.u8 writes one byte", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word,
                       "  mov.u32 %r1, 0x12345678;\n  st.global.u8 [%rd0+1], %r1;\n  st.global.u16 [%rd0+2], %r1;\n  ret;\n}\n"));
    const uint64_t out = device.upload(std::vector<uint32_t>(8, 0xaaaaaaaa));
    device.launch("k", {}, {8}, out);
    expect_each(device.download<uint32_t>(out, 8), [](size_t) { return 0x567878aau; });
  });
  test_case("offsets of addresses may be negative", [] {
    Device device(text(
        ".visible .entry k(.param .u64 out)\n{\n", own_word,
        "  add.s64 %rd1, %rd0, 16;\n  ld.global.u32 %r1, [%rd1+-16];\n  add.s32 %r1, %r1, 5;\n  st.global.u32 [%rd1+-0x10], %r1;\n  ret;\n"
        "}\n"));
    const uint64_t out = device.upload(std::vector<uint32_t>(32, 9));
    device.launch("k", {}, {32}, out);
    expect_each(device.download<uint32_t>(out, 32), [](size_t) { return 14u; });
  });
}

}  // namespace ptxemu::test
