// add, sub, mul, mad, fma, div, rem, min, max, abs, neg of every type: how many operands, and whose handler.
#include "select.h"

namespace ptxemu {
namespace {

int operand_count(std::string_view op) {
  if (op == "fma" || op == "mad" || op == "madc" || op == "mad24" || op == "sad") return 3;
  return op == "abs" || op == "neg" ? 1 : 2;
}

void decode(Decoder& d) {
  const int n = operand_count(d.part(0));
  const Type type = d.type();
  const bool wide = d.has("wide");
  auto wider = [&] { return type == Type::s32 ? Type::s64 : type == Type::u32 ? Type::u64 : type == Type::s16 ? Type::s32 : Type::u32; };
  const bool three = n == 2 && d.operands().size() == 4 && (d.part(0) == "min" || d.part(0) == "max");  // min of three, sm_100
  d.expect_operands(size_t(n) + 1 + three);
  if (three) d.unknown();
  d.target(0, wide ? wider() : type);
  d.sources(1, size_t(n) - (wide && n == 3), type);
  if (wide && n == 3) d.source(3, wider());
  if (is_float(type)) {
    const bool fused = n == 3, packed = type == Type::f16x2 || type == Type::bf16x2;
    d.in.flops = uint8_t((fused ? 2 : n == 2 ? 1 : 0) * (packed ? 2 : 1));
  }
  d.in.special = d.part(0) == "div" || d.part(0) == "rem";
  d.emit(is_half(type) ? half_handler(d) : is_float(type) ? float_handler(d) : integer_handler(d));
}

}  // namespace

void add_arithmetic(Table& t) {
  for (auto op :
       {"add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "abs", "neg", "mul24", "mad24", "sad", "addc", "subc", "madc"})
    t[op] = decode;
}

}  // namespace ptxemu
