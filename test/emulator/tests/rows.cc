#include "rows.h"

#include <algorithm>

#include "device.h"
#include "operands.h"

namespace ptxemu::test {
namespace {

constexpr size_t count = 4001;  // odd: the last block and its last warp are partial
constexpr uint32_t block = 160;

int register_bits(Type t) { return std::max(t.bits, 16); }

// for i < n: out[i] = instruction(in0[i], in1[i], …)
std::string kernel_of(const Row& row) {
  std::string instruction = row.text;
  if (instruction.find(' ') == std::string::npos) {
    instruction += " %d";
    for (size_t k = 0; k < row.in.size(); k++) instruction += text(", %", "abce"[k]);
  }
  if (instruction[0] != '{') instruction += ";";
  std::string parameters = ".param .u64 out, .param .u32 n", registers, loads;
  auto declare = [&](const std::string& name, Type t) {
    registers += text("  .reg .", t.kind == Kind::predicate ? "pred" : text("b", register_bits(t)), " ", name, ";\n");
  };
  for (size_t k = 0; k < row.in.size(); k++) {
    const Type t = row.in[k];
    const std::string name = text("%", "abce"[k]);
    parameters += text(", .param .u64 in", k);
    declare(name, t);
    loads += text("  ld.param.u64 %at, [in", k, "];\n  mad.wide.u32 %at, %i, ", t.bits / 8, ", %at;\n");
    const std::string load = text("  ld.global.", t.bits == 8 ? "u" : "b", t.bits, " ");
    if (t.kind == Kind::predicate) loads += text(load, "%byte, [%at];\n  setp.ne.u16 ", name, ", %byte, 0;\n");
    else loads += text(load, name, ", [%at];\n");
  }
  declare("%d", row.out);
  const std::string from = row.out.kind == Kind::predicate ? "%byte" : "%d";
  return text(".visible .entry k(", parameters, ")\n{\n  .reg .pred %out;\n  .reg .b16 %byte;\n  .reg .b32 %i, %n, %t;\n  .reg .b64 %at;\n",
              registers, "  mov.u32 %i, %ctaid.x;\n  mov.u32 %n, %ntid.x;\n  mov.u32 %t, %tid.x;\n  mad.lo.s32 %i, %i, %n, %t;\n",
              "  ld.param.u32 %n, [n];\n  setp.ge.u32 %out, %i, %n;\n  @%out bra DONE;\n", loads, "  ", instruction, "\n",
              row.out.kind == Kind::predicate ? "  selp.u16 %byte, 1, 0, %d;\n" : "",
              "  ld.param.u64 %at, [out];\n  mad.wide.u32 %at, %i, ", row.out.bits / 8, ", %at;\n  st.global.",
              row.out.bits == 8 ? "u" : "b", row.out.bits, " [%at], ", from, ";\nDONE:\n  ret;\n}\n");
}

double number(Type t, Bits b) {
  switch (t.kind) {
    case Kind::f16: return value_of<F16>(b);
    case Kind::bf16: return value_of<BF16>(b);
    case Kind::f32: return value_of<float>(b);
    case Kind::f64: return value_of<double>(b);
    default: return double(b);
  }
}
std::string shown(Type t, Bits b) {
  char s[64];
  if (t.kind == Kind::integer || t.kind == Kind::predicate) std::snprintf(s, sizeof s, "0x%llx", (unsigned long long)b);
  else if (t.kind == Kind::f16x2 || t.kind == Kind::bf16x2) std::snprintf(s, sizeof s, "0x%08llx", (unsigned long long)b);
  else std::snprintf(s, sizeof s, "0x%llx (%.9g)", (unsigned long long)b, number(t, b));
  return s;
}

// A NaN is right whatever its payload, unless the definition's own is the canonical one (then min, max and cvt promise it).
bool equal(Type t, Bits expected, Bits actual) {
  if (expected == actual) return true;
  if (t.kind == Kind::f16x2 || t.kind == Kind::bf16x2) {
    const Type half{t.kind == Kind::f16x2 ? Kind::f16 : Kind::bf16, 16};
    return equal(half, expected & 0xffff, actual & 0xffff) && equal(half, expected >> 16, actual >> 16);
  }
  if (t.kind == Kind::integer || t.kind == Kind::predicate) return false;
  return std::isnan(number(t, expected)) && std::isnan(number(t, actual));
}

Format format_of(Type t) {
  return t.kind == Kind::f16 ? f16_format : t.kind == Kind::bf16 ? bf16_format : t.kind == Kind::f32 ? f32_format : Format{53, -1022, 1023};
}

// `jitter` is counted in units of the last place of the correctly rounded result.
bool close(Type t, double expected, double actual, Tolerance tolerance, int jitter) {
  if (std::isnan(expected) || std::isnan(actual)) return std::isnan(expected) && std::isnan(actual);
  const Format f = format_of(t);
  const double rounded = round_to(expected, f);
  if (rounded == actual) return expected != 0 || std::signbit(expected) == std::signbit(actual);
  if (std::isinf(expected) || (expected == 0 && actual != 0 && tolerance.absolute == 0)) return false;
  const double largest = std::ldexp(2 - std::ldexp(1, 1 - f.precision), f.max_exponent);
  const int exponent = expected == 0 ? f.min_exponent : std::clamp(std::ilogb(expected), f.min_exponent, f.max_exponent);
  const double ulp = std::ldexp(1, exponent - f.precision + 1);
  // One ulp at least where the result is subnormal: the ISA's relative errors are those of normal results.
  const double subnormal = exponent == f.min_exponent ? ulp : 0;
  const double jittered =
      rounded == 0 || std::isinf(rounded) ? 0 : jitter * std::ldexp(1, std::max(std::ilogb(rounded), f.min_exponent) - f.precision + 1);
  const double allowed =
      jittered + std::max({tolerance.relative * std::fabs(expected), tolerance.absolute, tolerance.ulps * ulp, subnormal});
  const double reached = std::isinf(actual) ? std::copysign(std::max(largest, std::fabs(expected)), actual) : actual;
  return std::fabs(reached - expected) <= allowed;
}

class Run {
 public:
  explicit Run(const Row& row) : row_(row), device_(kernel_of(row)), rows_(operands(row.in, count)) {}

  std::vector<Bits> results() {
    const int bytes = row_.out.bits / 8;
    const uint64_t out = device_.upload(std::vector<char>(count * bytes));
    const uint32_t n = count;
    std::vector<uint64_t> addresses;
    for (size_t k = 0; k < row_.in.size(); k++) {
      std::vector<char> packed(count * row_.in[k].bits / 8);
      for (size_t i = 0; i < count; i++) std::memcpy(&packed[i * row_.in[k].bits / 8], &rows_[i][k], row_.in[k].bits / 8);
      addresses.push_back(device_.upload(packed));
    }
    std::vector<std::span<const std::byte>> arguments{std::as_bytes(std::span(&out, 1)), std::as_bytes(std::span(&n, 1))};
    for (const uint64_t& a : addresses) arguments.push_back(std::as_bytes(std::span(&a, 1)));
    run(device_.prepare("k", {(n + block - 1) / block}, {block}, 0, arguments), device_.memory, device_.gpu, device_.options,
        device_.counters);
    std::vector<Bits> results(count);
    const std::vector<char> packed = device_.download<char>(out, count * bytes);
    for (size_t i = 0; i < count; i++) std::memcpy(&results[i], &packed[i * bytes], bytes);
    return results;
  }

  void compare(const std::vector<Bits>& results, int jitter) const {
    for (size_t i = 0; i < count; i++) {
      try {
        if (row_.definition) {
          const Bits expected = row_.definition(rows_[i].data());
          EXPECT(equal(row_.out, expected, results[i]), called(i), ": expected ", shown(row_.out, expected), " but received ",
                 shown(row_.out, results[i]));
        } else {
          const double expected = row_.approximation(rows_[i].data());
          EXPECT(close(row_.out, expected, number(row_.out, results[i]), row_.tolerance, jitter), called(i), ": expected ", expected,
                 " but received ", shown(row_.out, results[i]));
        }
      } catch (const Unspecified&) {}
    }
  }

  Options& options() { return device_.options; }

 private:
  std::string called(size_t i) const {
    std::string s;
    for (size_t k = 0; k < row_.in.size(); k++) s += text(k ? ", " : "", "abce"[k], " = ", shown(row_.in[k], rows_[i][k]));
    return s;
  }

  const Row& row_;
  Device device_;
  std::vector<std::vector<Bits>> rows_;
};

}  // namespace

void add_row(Row row) {
  test_case(row.text, [row] {
    Run run(row);
    const std::vector<Bits> results = run.results();
    run.compare(results, 0);
    if (!row.approximation || row.out.kind == Kind::f64) return;  // only f32 and the halves are jittered
    run.options().jitter = true;
    const std::vector<Bits> shaken = run.results();
    run.compare(shaken, 2);
    EXPECT(shaken != results, "the jitter changes no result");
    EXPECT(run.results() == shaken, "the jitter is not a function of operand and seed");
  });
}

}  // namespace ptxemu::test
