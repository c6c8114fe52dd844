#include "operands.h"

#include <algorithm>

namespace ptxemu::test {
namespace {

Bits mask(int bits) { return bits == 64 ? ~Bits(0) : (Bits(1) << bits) - 1; }

std::vector<Bits> integer_edges(int bits) {
  std::vector<Bits> all;
  for (Bits small : {0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 63, 64, 65, 127, 128, 255}) all.push_back(small);
  const Bits top = Bits(1) << (bits - 1);
  for (Bits large : {top, top + 1, top - 1, mask(bits), mask(bits) - 1, mask(bits) / 3, mask(bits) / 3 * 2, top >> 1, Bits(0x80008001)})
    all.push_back(large & mask(bits));
  return all;
}

// Halves, ties and neighbours of integers in every format; then zeros, subnormals, limits, infinities and NaNs by their bits.
std::vector<Bits> float_edges(Kind kind) {
  std::vector<Bits> all;
  auto add = [&](double x) {
    for (double v : {x, -x}) {
      if (kind == Kind::f16) all.push_back(F16::round(v).bits);
      if (kind == Kind::bf16) all.push_back(BF16::round(v).bits);
      if (kind == Kind::f32) all.push_back(bits_as<uint32_t>(float(v)));
      if (kind == Kind::f64) all.push_back(bits_as<uint64_t>(v));
    }
  };
  for (double x : {0.0,       1.0,       0.5,       1.5,          2.5,          3.0,          0.99999994,  1.0000001, 127.5,
                   255.0,     32767.5,   65504.0,   65519.99,     65520.0,      0x1p-14,      0x1.ffcp-15, 0x1p-24,   0x1p-25,
                   0x1.8p-25, 8388607.5, 8388608.0, 2147483647.0, 2147483648.0, 4294967296.0, 0x1p63,      0x1p64,    0x1.fffffep62})
    add(x);
  const int bits = kind == Kind::f64 ? 64 : kind == Kind::f32 ? 32 : 16;
  const int mantissa = kind == Kind::f64 ? 52 : kind == Kind::f32 ? 23 : kind == Kind::f16 ? 10 : 7;
  const Bits infinity = (mask(bits - 1) >> mantissa) << mantissa, quiet = Bits(1) << (mantissa - 1);
  for (Bits b : {Bits(1), Bits(2), quiet, quiet * 2 - 1, quiet * 2, quiet * 2 + 1, infinity - 1, infinity, infinity + 1, infinity | quiet,
                 infinity | quiet | 1, mask(bits - 1)}) {
    all.push_back(b);
    all.push_back(b | Bits(1) << (bits - 1));
  }
  return all;
}

Type half_of(Type type) { return {type.kind == Kind::f16x2 ? Kind::f16 : Kind::bf16, 16}; }
bool is_pair(Type type) { return type.kind == Kind::f16x2 || type.kind == Kind::bf16x2; }

}  // namespace

std::vector<Bits> edges(Type type) {
  if (type.kind == Kind::predicate) return {0, 1};
  if (type.kind == Kind::integer) return integer_edges(type.bits);
  if (!is_pair(type)) return float_edges(type.kind);
  const std::vector<Bits> halves = float_edges(half_of(type).kind);
  std::vector<Bits> all;
  for (size_t i = 0; i < halves.size(); i++) all.push_back(halves[i] | halves[(i * 7 + 3) % halves.size()] << 16);
  return all;
}

Bits random_operand(Type type, std::mt19937_64& random) {
  if (is_pair(type)) return random_operand(half_of(type), random) | random_operand(half_of(type), random) << 16;
  const Bits any = random();
  if (type.kind == Kind::predicate) return any & 1;
  if (any >> 63) return random() & mask(type.bits);
  if (type.kind == Kind::integer) return (random() >> (any % 64)) & mask(type.bits);
  const double x = std::ldexp(double(random()) * 0x1p-63 - 1, int(any % 12) - 6);  // up to ±32
  if (type.kind == Kind::f16) return F16::round(x).bits;
  if (type.kind == Kind::bf16) return BF16::round(x).bits;
  return type.kind == Kind::f32 ? bits_as<uint32_t>(float(x)) : bits_as<uint64_t>(x);
}

std::vector<std::vector<Bits>> operands(const std::vector<Type>& types, size_t count) {
  std::mt19937_64 random(7);
  std::vector<std::vector<Bits>> special, rows;
  size_t combinations = 1;
  for (Type t : types) combinations *= (special.emplace_back(edges(t)), special.back().size());
  const bool few = combinations <= count * 3 / 4;
  for (size_t i = 0; i < count; i++) {
    std::vector<Bits> row;
    const bool edge = i < (few ? combinations : count / 2);
    size_t rest = few ? i : random() % combinations;
    for (size_t k = 0; k < types.size(); k++) {
      const bool take = edge || random() % 4 == 0;
      row.push_back(take ? special[k][rest % special[k].size()] : random_operand(types[k], random));
      rest /= special[k].size();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace ptxemu::test
