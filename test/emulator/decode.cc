// Names, operands and addresses -> places in the banks of a warp (PTX ISA, "Instruction Operands").
#include "decode.h"

#include <algorithm>
#include <cctype>

namespace ptxemu {

constexpr uint32_t predicate_none = 0, predicate_all = 4;  // the first two predicates are constants (warp/block.cc)

Decoder::Decoder(Module::State& module, const Kernel& kernel, Program& program) : module_(module), kernel_(kernel), program_(program) {
  program_.predicate_bytes = 8;
  program_.files = &module.source.files;
}

void Decoder::decode_kernel() {
  const Function& entry = *module_.functions.at(kernel_.name);
  SharedLayout layout = layout_shared(module_, entry);
  program_.static_shared = layout.static_bytes;
  program_.dynamic_shared_at = layout.dynamic_at;
  scopes_.emplace_back();
  for (auto& [key, offset] : layout.offsets) scopes_[0][key.first] = {Symbol::shared, Type::b8, 0, offset, 0};
  for (auto& [name, offset] : layout.dynamic) scopes_[0][name] = {Symbol::shared, Type::b8, 0, offset, 0};
  scopes_.emplace_back();
  for (auto& p : kernel_.parameters) scopes_[1][p.name] = {Symbol::param, Type::b8, 0, p.offset, p.bytes};
  decode_body(entry);
  scopes_.pop_back();
  decode_subroutines();
  resolve_jumps();
  std::map<int, std::vector<int>> returns;
  for (auto& [name, s] : subroutines_)
    for (int pc : s.ret_at) returns[pc] = s.returns_to;
  place_registers(program_, wide_, returns);
  program_.local_bytes = (program_.local_bytes + 15) / 16 * 16;
}

void Decoder::decode_body(const Function& function) {
  function_ = &function;
  scopes_.emplace_back();
  for (auto& s : function.body)
    if (s.kind == Statement::table) {
      size_t space = s.text.find(' '), targets = s.text.find(".branchtargets");
      if (targets == s.text.npos) continue;
      auto& labels = label_tables_[function.name + ":" + s.text.substr(0, space)];
      for (auto label : split(std::string_view(s.text).substr(targets + 14), ',')) labels.push_back(function.name + ":" + std::string(label));
    }
  for (auto& s : function.body) {
    statement_ = &s;
    switch (s.kind) {
      case Statement::open: scopes_.emplace_back(); break;
      case Statement::close: scopes_.pop_back(); break;
      case Statement::label: labels_[function.name + ":" + s.text] = int(program_.code.size()); break;
      case Statement::declaration: declare(s.text, s.line); break;
      case Statement::instruction: decode_statement(s); break;
      case Statement::table: break;
    }
  }
  end_ = {Statement::instruction, "ret", function.body.empty() ? 0 : function.body.back().line, {}};
  begin(end_);
  decode_return(false);
  scopes_.pop_back();
}

void Decoder::declare(std::string_view text, int line) {
  for (auto& d : parse_declarations(text, line)) {
    if (d.space == Space::reg) {
      if (!d.parameterised) scopes_.back()[d.name] = new_register(d.type);
      for (int i = 0; i < d.parameterised; i++) scopes_.back()[d.name + std::to_string(i)] = new_register(d.type);
    } else if (d.space == Space::local || d.space == Space::param) {
      scopes_.back()[d.name] = new_local(d);
    } else if (d.space != Space::shared) {
      fail_ptx(line, "a variable of this space inside a function: " + d.name);
    }
  }
}

Decoder::Symbol Decoder::new_register(Type type) {
  if (type == Type::pred) {
    Symbol s{Symbol::reg, type, operand_of(predicates, uint32_t(program_.predicate_bytes)), 0, 0};
    program_.predicate_bytes += 4;
    return s;
  }
  wide_.push_back(ptxemu::bytes(type) == 8);
  return {Symbol::reg, type, operand_of(registers, uint32_t(wide_.size() - 1)), 0, ptxemu::bytes(type)};
}

Decoder::Symbol Decoder::new_local(const Declaration& d) {
  size_t align = std::max<size_t>(d.align, 8);
  uint64_t offset = (program_.local_bytes + align - 1) / align * align;
  program_.local_bytes = offset + std::max<size_t>(d.bytes(), 1);
  return {Symbol::local, d.type, 0, offset, d.bytes()};
}

const Decoder::Symbol* Decoder::find(std::string_view name) const {
  std::string key(name);
  for (size_t i = scopes_.size(); i--;)
    if (auto it = scopes_[i].find(key); it != scopes_[i].end()) return &it->second;
  return nullptr;
}

void Decoder::begin(const Statement& statement) {
  statement_ = &statement;
  in = Instruction();
  std::string_view text = statement.text;
  if (text.starts_with('@')) {
    size_t end = text.find_first_of(" \t\n");
    std::string_view guard = text.substr(1, end - 1);
    text = trim(text.substr(end));
    if (guard.starts_with('!')) in.guard_negated = true, guard.remove_prefix(1);
    const Symbol* symbol = find(guard);
    if (!symbol || symbol->type != Type::pred) fail_ptx(statement.line, "expected a predicate but found " + std::string(guard));
    in.guard = symbol->operand;
  }
  size_t end = std::min(text.find_first_of(" \t\n"), text.size());
  opcode_ = text.substr(0, end);
  rest_ = trim(text.substr(end));
  parts_ = split(opcode_, '.');
  asked_ = 0;
  operands_ = split(rest_, ',');
}

// Defaults, hints to the caches, the memory model's words (every access here is in order) and those that every form of an opcode has.
static bool changes_nothing(std::string_view part) {
  static constexpr std::string_view words[] = {"rn", "lo", "approx", "noftz", "sync", "aligned", "uni", "weak", "relaxed", "acquire", "release", "acq_rel",
      "sc", "volatile", "cta", "gpu", "sys", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "to", "async", "wrap", "shared", "global", "m8n8", "v2", "v4", "gl", "popc", "idx", "any", "r", "abs"};
  return parse_type(part) != Type::none || part.starts_with("L1::") || part.starts_with("L2::") || std::find(std::begin(words), std::end(words), part) != std::end(words);
}

void Decoder::decode_statement(const Statement& statement) {
  begin(statement);
  std::string_view op = parts_[0];
  if (op == "bra" || op == "brx") return decode_branch();
  if (op == "call") return decode_call();
  if (op == "ret" || op == "exit") return decode_return(op == "exit");
  auto& table = decode_table();
  auto it = table.find(op);
  if (it == table.end()) unknown();
  it->second(*this);
  for (size_t i = 1; i < parts_.size(); i++)
    if (!(asked_ >> i & 1) && !changes_nothing(parts_[i])) unknown();
}

bool Decoder::has(std::string_view part) const {
  const size_t i = size_t(std::find(parts_.begin(), parts_.end(), part) - parts_.begin());
  if (i < parts_.size()) asked_ |= 1u << i;
  return i < parts_.size();
}
Type Decoder::type() const { return type_at(0); }
Type Decoder::type_at(size_t from_end) const {
  return parts_.size() > from_end + 1 ? parse_type(part(parts_.size() - 1 - from_end)) : Type::none;
}
std::string_view Decoder::operand(size_t i) const {
  if (i >= operands_.size()) fail_ptx(statement_->line, "too few operands: " + statement_->text);
  return operands_[i];
}
std::vector<std::string_view> Decoder::elements(std::string_view vector) {
  return vector.starts_with('{') ? split(vector.substr(1, vector.size() - 2), ',') : std::vector<std::string_view>{vector};
}
void Decoder::unknown() const {
  const Location& at = statement_->location;
  Error error(ErrorKind::unknown_instruction, "the emulator does not know this instruction: kernel " + kernel_.name + ", PTX line " +
                                                  std::to_string(statement_->line) + ": " + statement_->text);
  error.kernel = kernel_.name;
  error.ptx_line = statement_->line;
  if (auto file = module_.source.files.find(at.file); file != module_.source.files.end())
    error.source = file->second + ":" + std::to_string(at.line);
  throw error;
}
void Decoder::expect_operands(size_t count) const {
  if (operands_.size() != count) unknown();
}

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

void Decoder::constant(uint64_t bits, Type type) {
  in.operand[in.targets + in.sources++] = immediate(bits, ptxemu::bytes(type) == 8);
}

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

static const std::map<std::string_view, Special> special_names = {
    {"%tid.x", Special::tid_x}, {"%tid.y", Special::tid_y}, {"%tid.z", Special::tid_z}, {"%warpid", Special::warpid},
    {"%ctaid.x", Special::ctaid_x}, {"%ctaid.y", Special::ctaid_y}, {"%ctaid.z", Special::ctaid_z}, {"%smid", Special::smid},
    {"%laneid", Special::laneid}, {"%lanemask_eq", Special::lanemask_eq}, {"%lanemask_le", Special::lanemask_le},
    {"%lanemask_lt", Special::lanemask_lt}, {"%lanemask_ge", Special::lanemask_ge}, {"%lanemask_gt", Special::lanemask_gt},
    {"%ntid.x", Special::ntid_x}, {"%ntid.y", Special::ntid_y}, {"%ntid.z", Special::ntid_z}, {"%nctaid.x", Special::nctaid_x},
    {"%nctaid.y", Special::nctaid_y}, {"%nctaid.z", Special::nctaid_z}, {"%nwarpid", Special::nwarpid}, {"%nsmid", Special::nsmid},
    {"%gridid", Special::gridid}, {"%dynamic_smem_size", Special::dynamic_smem_size}, {"%total_smem_size", Special::total_smem_size},
    {"%tid.w", Special::zero}, {"%ctaid.w", Special::zero}};

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
  int64_t extra = sign == text.npos ? 0 : std::stoll(std::string(text[sign] == '-' ? "-" : "") + std::string(trim(text.substr(sign + 1))), nullptr, 0);
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
  static constexpr std::pair<std::string_view, Space> names[] = {{"global", Space::global}, {"shared", Space::shared}, {"local", Space::local},
      {"param", Space::param}, {"const", Space::constant}};
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

void Decoder::note_shared_access(size_t bytes) { program_.shadow_unit = std::min(program_.shadow_unit, bytes); }

void Decoder::emit(Handler handler) {
  if (!handler) unknown();
  in.run = handler;
  program_.code.push_back(in);
  program_.lines.push_back({statement_->line, statement_->text, statement_->location});
  bool negated = in.guard_negated;
  uint32_t guard = in.guard;
  in = Instruction();
  in.guard = guard, in.guard_negated = negated;  // a statement may need several
}

void Decoder::emit_flow(Flow flow) {
  in.flow = flow;
  emit([](Warp&, const Instruction&, uint32_t) {});
}

}  // namespace ptxemu
