// Logic, shifts and bit fields: and, or, xor, not, cnot, shl, shr, shf, bfe, bfi, bfind, clz, popc, brev, bmsk, szext, prmt, lop3.
// PTX ISA 9.0, "Integer Arithmetic Instructions", "Logic and Shift Instructions", "Data Movement and Conversion Instructions".
#include "rows.h"
#include "test.h"

namespace ptxemu::test {
namespace {

template <class T> constexpr unsigned width = sizeof(T) * 8;

// Shift amounts above the width count as the width.
template <class T> T left(T a, uint32_t n) { return n >= width<T> ? T(0) : T(a << n); }
template <class T> T right(T a, uint32_t n) {
  if (n >= width<T>) return std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
  return T(a >> n);
}
template <class T> void shifts(const std::string& t) {
  row("shr" + t, [](T a, uint32_t n) { return right<T>(a, n); });
}

template <class T> void logic() {
  const std::string t = text(".b", width<T>);
  row("and" + t, [](T a, T b) { return T(a & b); });
  row("or" + t, [](T a, T b) { return T(a | b); });
  row("xor" + t, [](T a, T b) { return T(a ^ b); });
  row("not" + t, [](T a) { return T(~a); });
  row("cnot" + t, [](T a) { return T(a == 0); });
  row("shl" + t, [](T a, uint32_t n) { return left<T>(a, n); });
  shifts<T>(t);
  shifts<T>(text(".u", width<T>));
  shifts<std::make_signed_t<T>>(text(".s", width<T>));
}

// bfe: len bits from pos; the sign bit is bit min(pos + len - 1, msb), and fills what lies above.
template <class T> T extracted(T a, uint32_t b, uint32_t c) {
  const unsigned msb = width<T> - 1, position = b & 0xff, length = c & 0xff;
  const bool sign = std::is_signed_v<T> && length && (uint64_t(a) >> std::min(position + length - 1, msb) & 1);
  T d = 0;
  for (unsigned i = 0; i <= msb; i++) {
    const bool bit = i < length && position + i <= msb ? uint64_t(a) >> (position + i) & 1 : sign;
    d = T(uint64_t(d) | uint64_t(bit) << i);
  }
  return d;
}
template <class T> T inserted(T a, T b, uint32_t c, uint32_t d) {
  const unsigned msb = width<T> - 1, position = c & 0xff, length = d & 0xff;
  T f = b;
  for (unsigned i = 0; i < length && position + i <= msb; i++) {
    const T bit = T(T(1) << (position + i));
    f = T((f & ~bit) | (a >> i & 1 ? bit : 0));
  }
  return f;
}
// Position of the highest bit that differs from the sign; 0xffffffff if there is none.
template <class T> uint32_t highest(T a) {
  const uint64_t bits = std::make_unsigned_t<T>(a < 0 ? T(~a) : a);
  for (int i = width<T> - 1; i >= 0; i--)
    if (bits >> i & 1) return i;
  return ~0u;
}
template <class T> void fields(const std::string& t) {
  row("bfe" + t, [](T a, uint32_t b, uint32_t c) { return extracted<T>(a, b, c); });
  row("bfind" + t, [](T a) { return highest<T>(a); });
  row("bfind.shiftamt" + t, [](T a) { return highest<T>(a) == ~0u ? ~0u : width<T> - 1 - highest<T>(a); });
}
template <class T> void counts() {
  const std::string t = text(".b", width<T>);
  row("bfi" + t, [](T a, T b, uint32_t c, uint32_t d) { return inserted<T>(a, b, c, d); });
  row("clz" + t, [](T a) { return highest<T>(a) == ~0u ? uint32_t(width<T>) : width<T> - 1 - highest<T>(a); });
  row("popc" + t, [](T a) {
    uint32_t n = 0;
    for (unsigned i = 0; i < width<T>; i++) n += a >> i & 1;
    return n;
  });
  row("brev" + t, [](T a) {
    T d = 0;
    for (unsigned i = 0; i < width<T>; i++) d |= T(a >> i & 1) << (width<T> - 1 - i);
    return d;
  });
}

// shf shifts the 64-bit value b:a and keeps the upper (l) or lower (r) word.
void funnel() {
  for (const bool wrap : {true, false}) {
    const std::string mode = wrap ? ".wrap.b32" : ".clamp.b32";
    auto amount = [wrap](uint32_t c) { return wrap ? c & 31 : std::min(c, 32u); };
    row("shf.l" + mode, [=](uint32_t a, uint32_t b, uint32_t c) {
      const uint32_t n = amount(c);
      return n == 32 ? a : n == 0 ? b : b << n | a >> (32 - n);
    });
    row("shf.r" + mode, [=](uint32_t a, uint32_t b, uint32_t c) {
      const uint32_t n = amount(c);
      return n == 32 ? b : n == 0 ? a : b << (32 - n) | a >> n;
    });
  }
}

// bmsk: b ones from bit a on; szext: the low b bits, the rest zero or the sign.
void masks() {
  for (const bool clamp : {true, false}) {
    const std::string mode = clamp ? ".clamp" : ".wrap";
    auto amount = [clamp](uint32_t n) { return clamp ? std::min(n, 32u) : n & 31; };
    row("bmsk" + mode + ".b32", [=](uint32_t a, uint32_t b) {
      uint32_t d = 0;
      for (uint32_t i = amount(a); i < 32 && i < amount(a) + amount(b); i++) d |= 1u << i;
      return d;
    });
    auto low = [=](uint32_t a, uint32_t n, bool sign) {
      uint32_t d = 0;
      for (uint32_t i = 0; i < 32; i++) d |= (i < n ? a >> i & 1 : sign && n ? a >> (n - 1) & 1 : 0) << i;
      return d;
    };
    row("szext" + mode + ".u32", [=](uint32_t a, uint32_t b) { return low(a, amount(b), false); });
    row("szext" + mode + ".s32", [=](uint32_t a, uint32_t b) { return low(a, amount(b), true); });
  }
}

uint32_t byte_of(uint32_t a, uint32_t b, uint32_t selector) {
  const uint32_t byte = (selector & 4 ? b : a) >> (selector & 3) * 8 & 0xff;
  return selector & 8 ? (byte & 0x80 ? 0xff : 0) : byte;  // bit 3 replicates the sign
}
uint32_t gathered(uint32_t a, uint32_t b, const int (&bytes)[4]) {
  uint32_t d = 0, at = 0;
  for (int i : bytes) d |= byte_of(a, b, i) << 8 * at++;
  return d;
}
void permutations() {
  row("prmt.b32", [](uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) d |= byte_of(a, b, c >> 4 * i & 15) << 8 * i;
    return d;
  });
  struct Mode {
    const char* name;
    int select[4][4];
  };  // from the least significant byte, by c & 3
  static const Mode modes[] = {
      {"f4e", {{0, 1, 2, 3}, {1, 2, 3, 4}, {2, 3, 4, 5}, {3, 4, 5, 6}}}, {"b4e", {{0, 7, 6, 5}, {1, 0, 7, 6}, {2, 1, 0, 7}, {3, 2, 1, 0}}},
      {"rc8", {{0, 0, 0, 0}, {1, 1, 1, 1}, {2, 2, 2, 2}, {3, 3, 3, 3}}}, {"ecl", {{0, 1, 2, 3}, {1, 1, 2, 3}, {2, 2, 2, 3}, {3, 3, 3, 3}}},
      {"ecr", {{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 1, 2, 2}, {0, 1, 2, 3}}}, {"rc16", {{0, 1, 0, 1}, {2, 3, 2, 3}, {0, 1, 0, 1}, {2, 3, 2, 3}}},
  };
  for (const Mode& m : modes)
    row(text("prmt.b32.", m.name), [&m](uint32_t a, uint32_t b, uint32_t c) { return gathered(a, b, m.select[c & 3]); });
}

void any_logic() {
  for (int table = 0; table < 256; table += table % 16 == 10 ? 1 : 5)
    row(text("lop3.b32 %d, %a, %b, %c, ", table), [table](uint32_t a, uint32_t b, uint32_t c) {
      uint32_t d = 0;
      for (int i = 0; i < 32; i++) d |= (table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1u) << i;
      return d;
    });
}

}  // namespace

SUITE(bits) {
  logic<uint16_t>();
  logic<uint32_t>();
  logic<uint64_t>();
  fields<int32_t>(".s32");
  fields<uint32_t>(".u32");
  fields<int64_t>(".s64");
  fields<uint64_t>(".u64");
  counts<uint32_t>();
  counts<uint64_t>();
  funnel();
  masks();
  permutations();
  any_logic();
  row("and.pred", [](bool a, bool b) { return a && b; });
  row("or.pred", [](bool a, bool b) { return a || b; });
  row("xor.pred", [](bool a, bool b) { return a != b; });
  row("not.pred", [](bool a) { return !a; });
  row("mov.pred", [](bool a) { return a; });
}

}  // namespace ptxemu::test
