// ldmatrix, stmatrix, movmatrix: 8 x 8 matrices of 16-bit elements. PTX ISA 9.0, "Matrix Multiply-Accumulate Instructions".
// Lane 8k + r gives the address of row r of matrix k. Register k of a lane holds elements (g, 2t) and (g, 2t + 1) of matrix k, or with
// .trans (2t, g) and (2t + 1, g), g = lane / 4, t = lane % 4.
#include <numeric>
#include <random>

#include "device.h"

namespace ptxemu::test {
namespace {

constexpr int stride = 24;  // halves between rows in shared memory: 48 bytes, 16-byte aligned
constexpr int rows = 32;

std::vector<uint16_t> numbered(int count) {
  std::vector<uint16_t> v(count);
  std::iota(v.begin(), v.end(), 0x100);
  return v;
}
// Which row of shared memory lane 8k + r points at; lanes beyond the last matrix point nowhere.
std::vector<uint32_t> row_addresses(int matrices) {
  std::vector<uint32_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(4));
  for (int lane = 0; lane < 32; lane++) order[lane] = lane < matrices * 8 ? order[lane] * stride * 2 : 0xfffffff0;
  return order;
}

std::string list(int n) { return n == 1 ? "{%v0}" : n == 2 ? "{%v0, %v1}" : "{%v0, %v1, %v2, %v3}"; }

// Each lane copies its row of 16 halves from global to shared (or back), and holds its row address in %row.
std::string kernel(const std::string& body) {
  return text(".visible .entry k(.param .u64 out, .param .u64 in, .param .u64 addresses)\n{\n  .shared .align 16 .b8 tile[1536];\n",
              "  .reg .b32 %lane, %base, %row, %own, %v<4>, %w<4>;\n  .reg .b64 %out, %in, %x;\n  mov.u32 %lane, %laneid;\n  mov.u32 "
              "%base, tile;\n",
              "  ld.param.u64 %out, [out];\n  ld.param.u64 %in, [in];\n  ld.param.u64 %x, [addresses];\n  mad.wide.u32 %x, %lane, 4, %x;\n",
              "  ld.global.u32 %row, [%x];\n  add.u32 %row, %row, %base;\n  mad.lo.u32 %own, %lane, 48, %base;\n", body, "  ret;\n}\n");
}
const std::string fill_shared =
    "  mad.wide.u32 %in, %lane, 48, %in;\n  ld.global.v4.u32 {%w0, %w1, %w2, %w3}, [%in];\n  st.shared.v4.u32 [%own], {%w0, %w1, %w2, "
    "%w3};\n"
    "  bar.warp.sync 0xffffffff;\n";
const std::string empty_shared =
    "  bar.warp.sync 0xffffffff;\n  ld.shared.v4.u32 {%w0, %w1, %w2, %w3}, [%own];\n  mad.wide.u32 %out, %lane, 48, %out;\n"
    "  st.global.v4.u32 [%out], {%w0, %w1, %w2, %w3};\n";

struct Place { int row, column; };
Place place(int lane, int i, bool transposed) {
  const int g = lane / 4, c = 2 * (lane % 4) + i;
  return transposed ? Place{c, g} : Place{g, c};
}

void load(int matrices, bool transposed) {
  const std::string op = text("ldmatrix.sync.aligned.m8n8.x", matrices, transposed ? ".trans" : "", ".shared.b16");
  test_case(op, [=] {
    std::string stores = text("  mad.wide.u32 %out, %lane, ", matrices * 4, ", %out;\n");
    for (int k = 0; k < matrices; k++) stores += text("  st.global.u32 [%out+", k * 4, "], %v", k, ";\n");
    Device device(kernel(text(fill_shared, "  ", op, " ", list(matrices), ", [%row];\n", stores)), 80);
    const std::vector<uint16_t> in = numbered(rows * stride);
    const std::vector<uint32_t> addresses = row_addresses(matrices);
    const uint64_t out = device.upload(std::vector<uint16_t>(32 * matrices * 2));
    device.launch("k", {}, {32}, out, device.upload(in), device.upload(addresses));
    expect_each(
        device.download<uint16_t>(out, 32 * matrices * 2),
        [&](size_t at) {
          const int lane = int(at) / (matrices * 2), matrix = int(at) / 2 % matrices;
          const Place p = place(lane, int(at) % 2, transposed);
          return in[addresses[matrix * 8 + p.row] / 2 + p.column];
        },
        "half");
  });
}

void store(int matrices, bool transposed) {
  const std::string op = text("stmatrix.sync.aligned.m8n8.x", matrices, transposed ? ".trans" : "", ".shared.b16");
  test_case(op, [=] {
    std::string loads = text("  mad.wide.u32 %in, %lane, ", matrices * 4, ", %in;\n");
    for (int k = 0; k < matrices; k++) loads += text("  ld.global.u32 %v", k, ", [%in+", k * 4, "];\n");
    Device device(kernel(text("  st.shared.v4.u32 [%own], {0, 0, 0, 0};\n  bar.warp.sync 0xffffffff;\n", loads, "  ", op, " [%row], ",
                              list(matrices), ";\n", empty_shared)),
                  90);
    const std::vector<uint16_t> in = numbered(32 * matrices * 2);
    const std::vector<uint32_t> addresses = row_addresses(matrices);
    const uint64_t out = device.upload(std::vector<uint16_t>(rows * stride));
    device.launch("k", {}, {32}, out, device.upload(in), device.upload(addresses));
    std::vector<uint16_t> expected(rows * stride);
    for (int lane = 0; lane < 32; lane++)
      for (int k = 0; k < matrices; k++)
        for (int i = 0; i < 2; i++) {
          const Place p = place(lane, i, transposed);
          expected[addresses[k * 8 + p.row] / 2 + p.column] = in[(lane * matrices + k) * 2 + i];
        }
    expect_each(device.download<uint16_t>(out, rows * stride), [&](size_t at) { return expected[at]; }, "half");
  });
}

}  // namespace

SUITE(matrices) {
  for (const int matrices : {1, 2, 4})
    for (const bool transposed : {false, true}) {
      load(matrices, transposed);
      store(matrices, transposed);
    }
  test_case("movmatrix.sync.aligned.m8n8.trans.b16", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word,
                       "  mul.lo.u32 %r1, %r0, 0x20002;\n  add.u32 %r1, %r1, 0x10000;\n  movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\n"
                       "  st.global.u32 [%rd0], %r2;\n  ret;\n}\n"));  // element (row, column) = 8·row + column
    expect_each(
        results_of<uint16_t>(device, {32}, 64),
        [](size_t at) {
          const Place p = place(int(at) / 2, int(at) % 2, true);
          return uint16_t(p.row * 8 + p.column);
        },
        "half");
  });
}

}  // namespace ptxemu::test
