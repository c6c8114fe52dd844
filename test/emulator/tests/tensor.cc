// mma. PTX ISA 9.0, "Matrix Multiply-Accumulate Instructions", fragments per lane with g = lane / 4, t = lane % 4:
//   A (16 x K): a[i] holds row g + 8·(i/2 % 2), columns 2t + i%2 + 8·(i/4)       B (K x 8): b[i] holds row 2t + i%2 + 8·(i/2), column g
//   C, D (16 x 8): c[i] holds row g + 8·(i/2), column 2t + i%2
// D = A·B + C with exact products; the order of the sum is open, so a result may be off by the roundings of K + 1 additions.
#include <random>

#include "device.h"
#include "rounding.h"

namespace ptxemu::test {
namespace {

struct Product {
  int k;
  bool brain, half_result;
  std::string name() const {
    const std::string in = brain ? "bf16" : "f16", out = half_result ? "f16" : "f32";
    return text("mma.sync.aligned.m16n8k", k, ".row.col.", out, ".", in, ".", in, ".", out);
  }
};

struct Matrices {
  std::vector<uint16_t> a, b;  // [16, K], [K, 8]
  std::vector<float> c;        // [16, 8], each an f16 where the result is f16
};

double half(const Product& p, uint16_t bits) { return p.brain ? double(BF16{bits}) : double(F16{bits}); }
uint16_t rounded(const Product& p, double x) { return p.brain ? BF16::round(x).bits : F16::round(x).bits; }

template <class F> Matrices filled(const Product& p, F value) {
  Matrices m{std::vector<uint16_t>(16 * p.k), std::vector<uint16_t>(p.k * 8), std::vector<float>(128)};
  for (uint16_t& x : m.a) x = rounded(p, value());
  for (uint16_t& x : m.b) x = rounded(p, value());
  for (float& x : m.c) x = p.half_result ? float(F16::round(value())) : float(value());
  return m;
}

std::string list(const std::string& stem, int n) {
  std::string s = "{";
  for (int i = 0; i < n; i++) s += text(i ? ", " : "", stem, i);
  return s + "}";
}

// One warp: fragments are loaded lane by lane from arrays [lane, register].
std::vector<float> multiply(const Product& p, const Matrices& m, Device& device) {
  const int a_words = p.k / 4, b_words = p.k / 8, c_words = p.half_result ? 2 : 4;
  std::vector<uint16_t> a(32 * a_words * 2), b(32 * b_words * 2);
  std::vector<uint32_t> c(32 * c_words);
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < a_words * 2; i++) a[lane * a_words * 2 + i] = m.a[(g + i / 2 % 2 * 8) * p.k + 2 * t + i % 2 + i / 4 * 8];
    for (int i = 0; i < b_words * 2; i++) b[lane * b_words * 2 + i] = m.b[(2 * t + i % 2 + i / 2 * 8) * 8 + g];
    for (int i = 0; i < 4; i++) {
      const float value = m.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
      if (p.half_result) c[lane * 2 + i / 2] |= uint32_t(F16::round(value).bits) << i % 2 * 16;
      else c[lane * 4 + i] = bits_as<uint32_t>(value);
    }
  }
  const uint64_t out = device.upload(std::vector<uint32_t>(c.size()));
  device.launch("k", {}, {32}, out, device.upload(a), device.upload(b), device.upload(c));
  const std::vector<uint32_t> d = device.download<uint32_t>(out, c.size());
  std::vector<float> result(128);
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++)
      result[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] =
          p.half_result ? float(F16{uint16_t(d[lane * 2 + i / 2] >> i % 2 * 16)}) : bits_as<float>(d[lane * 4 + i]);
  return result;
}

std::string kernel(const Product& p) {
  const int a_words = p.k / 4, b_words = p.k / 8, c_words = p.half_result ? 2 : 4;
  auto loads = [](const std::string& parameter, const std::string& stem, int words) {
    std::string s = text("  ld.param.u64 %x, [", parameter, "];\n  mad.wide.u32 %x, %i, ", words * 4, ", %x;\n");
    for (int i = 0; i < words; i++) s += text("  ld.global.u32 ", stem, i, ", [%x+", i * 4, "];\n");
    return s;
  };
  std::string stores = text("  ld.param.u64 %x, [out];\n  mad.wide.u32 %x, %i, ", c_words * 4, ", %x;\n");
  for (int i = 0; i < c_words; i++) stores += text("  st.global.u32 [%x+", i * 4, "], %d", i, ";\n");
  return text(
      ".visible .entry k(.param .u64 out, .param .u64 pa, .param .u64 pb, .param .u64 pc)\n{\n  .reg .b32 %i, %a<4>, %b<4>, %c<4>, "
      "%d<4>;\n",
      "  .reg .b64 %x;\n  mov.u32 %i, %tid.x;\n", loads("pa", "%a", a_words), loads("pb", "%b", b_words), loads("pc", "%c", c_words), "  ",
      p.name(), " ", list("%d", c_words), ", ", list("%a", a_words), ", ", list("%b", b_words), ", ", list("%c", c_words), ";\n", stores,
      "  ret;\n}\n");
}

struct Exact { double value, magnitude; };
Exact exact(const Product& p, const Matrices& m, int row, int column) {
  long double sum = m.c[row * 8 + column], magnitude = std::fabs(m.c[row * 8 + column]);
  for (int k = 0; k < p.k; k++) {
    const long double product = half(p, m.a[row * p.k + k]) * half(p, m.b[k * 8 + column]);
    sum += product, magnitude += std::fabs(product);
  }
  return {double(sum), double(magnitude)};
}

void products(const Product& p) {
  test_case(p.name() + " of small integers is exact in both rounding models", [p] {
    for (const MmaRounding rounding : {MmaRounding::sequential, MmaRounding::truncated}) {
      Device device(kernel(p), p.k == 8 && !p.brain ? 75 : 80);
      device.options.mma = rounding;
      std::mt19937 random(5);
      const Matrices m = filled(p, [&] { return double(random() % 9) - 4; });
      const std::vector<float> d = multiply(p, m, device);
      expect_each(d, [&](size_t i) { return float(exact(p, m, int(i / 8), int(i % 8)).value); });
      EXPECT(device.counters.kernels["k"].mma_k8 == uint64_t(p.k / 8), "mma_k8 = ", device.counters.kernels["k"].mma_k8);
    }
  });
  test_case(p.name() + " of random numbers stays within the roundings of its additions", [p] {
    Device device(kernel(p), 80);
    std::mt19937 random(6);
    std::normal_distribution<double> normal;
    size_t different = 0;
    for (int round = 0; round < 20; round++) {
      const Matrices m = filled(p, [&] { return normal(random) * std::exp2(int(random() % 9) - 4); });
      std::vector<float> results[2];
      for (const MmaRounding rounding : {MmaRounding::sequential, MmaRounding::truncated}) {
        device.options.mma = rounding;
        const std::vector<float>& d = results[rounding == MmaRounding::truncated] = multiply(p, m, device);
        for (int i = 0; i < 128; i++) {
          const Exact e = exact(p, m, i / 8, i % 8);
          // Truncation at 24 bits costs up to 2^-23 of the largest partial sum per addition; f16 results are rounded once more.
          const double allowed = e.magnitude * (p.k + 1) * 0x1p-23 + (p.half_result ? std::fabs(e.value) * 0x1p-11 + 0x1p-25 : 0);
          EXPECT(std::fabs(d[i] - e.value) <= allowed, "element ", i, ": expected ", e.value, " ± ", allowed, " but received ", d[i]);
        }
      }
      for (int i = 0; i < 128; i++) different += results[0][i] != results[1][i];
    }
    EXPECT(p.half_result || different > 100, "the rounding models differ in only ", different, " of 2560 results");
  });
  if (!p.half_result)
    test_case(p.name() + " of positive numbers: the truncated sum is never above the exact one", [p] {
      Device device(kernel(p), 80);
      device.options.mma = MmaRounding::truncated;
      std::mt19937 random(8);
      std::uniform_real_distribution<double> positive(0.1, 1.9);
      for (int round = 0; round < 20; round++) {
        const Matrices m = filled(p, [&] { return positive(random); });
        const std::vector<float> d = multiply(p, m, device);
        for (int i = 0; i < 128; i++) {
          const Exact e = exact(p, m, i / 8, i % 8);
          EXPECT(d[i] <= e.value && d[i] >= e.value * (1 - (p.k + 1) * 0x1p-23), "element ", i, ": exact ", e.value, ", received ", d[i]);
        }
      }
    });
  test_case(p.name() + " passes infinities and NaNs on", [p] {
    Device device(kernel(p), 80);
    Matrices m = filled(p, [] { return 1.0; });
    m.a[0] = rounded(p, HUGE_VAL);                             // row 0: +inf
    m.a[p.k] = rounded(p, HUGE_VAL), m.c[8 + 2] = -HUGE_VALF;  // row 1: inf, and inf - inf in column 2
    m.b[3] = 0;                                                // column 3: inf · 0 in rows 0 and 1
    const std::vector<float> d = multiply(p, m, device);
    for (int i = 0; i < 128; i++) {
      const int row = i / 8, column = i % 8;
      const bool nan = row < 2 && (column == 3 || (row == 1 && column == 2));
      const float expected = row < 2 ? HUGE_VALF : float(p.k + 1 - (column == 3));
      EXPECT(nan ? std::isnan(d[i]) : d[i] == expected, "row ", row, ", column ", column, ": received ", d[i]);
    }
  });
}

}  // namespace

SUITE(tensor) {
  products({8, false, false});
  products({8, false, true});
  products({8, true, false});
  products({16, false, false});
  products({16, false, true});
  products({16, true, false});
}

}  // namespace ptxemu::test
