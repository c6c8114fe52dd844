// Operands and addresses -> places in the banks of a warp (PTX ISA, "Instruction Operands", "Special Registers").
#include "decode.h"

namespace ptxemu {

constexpr uint32_t predicate_none = 0, predicate_all = 4;  // the first two predicates are constants (warp/block.cc)

void Decoder::target(std::string_view text, Type type) {
  if (in.sources || in.targets == 14) fail_ptx(statement_->line, "operands out of order");
  uint32_t operand;
  if (text == "_") {
    operand = new_register(type).operand;
  } else {
    const Symbol* symbol = find(text);
    if (!symbol || symbol->kind != Symbol::reg) fail_ptx(statement_->line, "expected a register to write but found " + std::string(text));
    operand = symbol->operand;
    bool wide = symbol->type != Type::pred && wide_[operand];
    if ((symbol->type == Type::pred) != (type == Type::pred) || wide != (ptxemu::bytes(type) == 8)) unknown();
  }
  in.operand[in.targets++] = operand;
}

void Decoder::source(std::string_view text, Type type) {
  if (in.targets + in.sources == 14) fail_ptx(statement_->line, "too many operands");
  in.operand[in.targets + in.sources++] = resolve(text, type);
}

void Decoder::constant(uint64_t bits, Type type) { in.operand[in.targets + in.sources++] = immediate(bits, ptxemu::bytes(type) == 8); }

uint32_t Decoder::resolve(std::string_view text, Type type) {
  bool wide = ptxemu::bytes(type) == 8;
  if (const Symbol* s = find(text); s && s->kind == Symbol::reg) {
    bool is_wide = s->type != Type::pred && wide_[s->operand];
    if ((s->type == Type::pred) != (type == Type::pred) || is_wide != wide) unknown();
    return s->operand;
  }
  uint64_t bits = 0;
  if (type == Type::pred) {
    if (!parse_literal(text, Type::s32, bits)) unknown();
    return operand_of(predicates, bits ? predicate_all : predicate_none);
  }
  if (text.starts_with('%')) return special(text);
  if (!parse_literal(text, type, bits) && !symbol_address(text, bits)) {
    if (text == "WARP_SZ") bits = 32;
    else fail_ptx(statement_->line, "unknown operand " + std::string(text) + " in: " + statement_->text);
  }
  if (ptxemu::bytes(type) <= 2) bits &= ptxemu::bytes(type) == 1 ? 0xff : 0xffff;
  return immediate(bits, wide);
}

uint32_t Decoder::immediate(uint64_t bits, bool wide) {
  if (!wide) bits = uint32_t(bits);
  auto [it, fresh] = immediates_.try_emplace({bits, wide}, 0);
  if (fresh) {
    uint32_t at = uint32_t(program_.constant_bytes);
    program_.constant_bytes += wide ? 256 : 128;
    program_.immediates.push_back({at, bits});
    program_.immediate_wide.push_back({at, wide});
    it->second = operand_of(constants, at);
  }
  return it->second;
}

static const std::map<std::string_view, Special> special_names = {{"%tid.x", Special::tid_x},
                                                                  {"%tid.y", Special::tid_y},
                                                                  {"%tid.z", Special::tid_z},
                                                                  {"%warpid", Special::warpid},
                                                                  {"%ctaid.x", Special::ctaid_x},
                                                                  {"%ctaid.y", Special::ctaid_y},
                                                                  {"%ctaid.z", Special::ctaid_z},
                                                                  {"%smid", Special::smid},
                                                                  {"%laneid", Special::laneid},
                                                                  {"%lanemask_eq", Special::lanemask_eq},
                                                                  {"%lanemask_le", Special::lanemask_le},
                                                                  {"%lanemask_lt", Special::lanemask_lt},
                                                                  {"%lanemask_ge", Special::lanemask_ge},
                                                                  {"%lanemask_gt", Special::lanemask_gt},
                                                                  {"%ntid.x", Special::ntid_x},
                                                                  {"%ntid.y", Special::ntid_y},
                                                                  {"%ntid.z", Special::ntid_z},
                                                                  {"%nctaid.x", Special::nctaid_x},
                                                                  {"%nctaid.y", Special::nctaid_y},
                                                                  {"%nctaid.z", Special::nctaid_z},
                                                                  {"%nwarpid", Special::nwarpid},
                                                                  {"%nsmid", Special::nsmid},
                                                                  {"%gridid", Special::gridid},
                                                                  {"%dynamic_smem_size", Special::dynamic_smem_size},
                                                                  {"%total_smem_size", Special::total_smem_size},
                                                                  {"%tid.w", Special::zero},
                                                                  {"%ctaid.w", Special::zero}};

bool Decoder::is_wide(std::string_view text) const {
  const Symbol* s = find(text);
  return s && s->kind == Symbol::reg && s->type != Type::pred && wide_[s->operand];
}

bool Decoder::is_predicate(std::string_view text) const {
  const Symbol* s = find(text);
  return s && s->kind == Symbol::reg && s->type == Type::pred;
}

bool Decoder::is_special(std::string_view text) const { return text.starts_with('%') && !find(text); }

uint32_t Decoder::special(std::string_view name) {
  auto known = special_names.find(name);
  if (known == special_names.end()) unknown();
  auto [it, fresh] = specials_.try_emplace(known->second, 0);
  if (fresh) {
    bool per_warp = known->second <= Special::smid;
    size_t& size = per_warp ? program_.special_bytes : program_.constant_bytes;
    it->second = operand_of(per_warp ? specials : constants, uint32_t(size));
    (per_warp ? program_.warp_specials : program_.constant_specials).push_back({uint32_t(size), known->second});
    size += 256;  // 64-bit reads of a special register find zero in the upper halves
  }
  return it->second;
}

// name, name+4, name-4, generic(name): shared and local variables are offsets, global ones device addresses.
bool Decoder::symbol_address(std::string_view text, uint64_t& bits) const {
  bool generic = text.starts_with("generic(");
  if (generic) text = trim(text.substr(8, text.find(')') - 8));
  size_t sign = text.find_first_of("+-", 1);
  std::string name(trim(text.substr(0, sign)));
  int64_t extra =
      sign == text.npos ? 0 : std::stoll(std::string(text[sign] == '-' ? "-" : "") + std::string(trim(text.substr(sign + 1))), nullptr, 0);
  if (const Symbol* s = find(name)) {
    if (s->kind == Symbol::reg) return false;
    bits = s->offset + extra;
    if (generic) bits += s->kind == Symbol::shared ? shared_window : s->kind == Symbol::param ? param_window : local_window;
    return true;
  }
  auto variable = module_.variables.find(name);
  if (variable == module_.variables.end()) return false;
  bits = variable->second.address + extra;
  return true;
}

Space Decoder::space() const {
  static constexpr std::pair<std::string_view, Space> names[] = {
      {"global", Space::global}, {"shared", Space::shared}, {"local", Space::local}, {"param", Space::param}, {"const", Space::constant}};
  for (size_t i = 1; i < parts_.size(); i++)
    for (auto& [name, space] : names)
      if (parts_[i].substr(0, parts_[i].find("::")) == name) return part(i), space;
  return Space::generic;
}

Space Decoder::address(std::string_view text, Space space) {
  if (!text.starts_with('[') || !text.ends_with(']')) unknown();
  text = trim(text.substr(1, text.size() - 2));
  size_t sign = text.find_first_of("+-", 1);
  std::string_view base = trim(text.substr(0, sign));
  const Symbol* s = find(base);
  uint64_t bits = 0;
  if (s && s->kind == Symbol::reg) {
    if (sign != text.npos) {
      std::string_view extra = trim(text.substr(sign + 1));
      uint64_t value = 0;
      if (!parse_literal(extra, Type::s64, value)) unknown();
      in.offset = text[sign] == '-' ? -int64_t(value) : int64_t(value);
    }
    bool wide = wide_[s->operand];
    in.aux = (in.aux & ~1) | wide;
    source(base, wide ? Type::u64 : Type::u32);
    return space;
  }
  if (!symbol_address(text, bits) && !parse_literal(text, Type::u64, bits)) unknown();
  if (s && space == Space::param && s->kind == Symbol::local) space = Space::local;
  if (s && space == Space::generic) {
    if (s->kind == Symbol::shared) space = Space::shared;
    if (s->kind == Symbol::local) space = Space::local;
    if (s->kind == Symbol::param) space = Space::param;
  }
  in.aux |= 1;
  constant(bits, Type::u64);
  return space;
}

}  // namespace ptxemu
