// Functions, scopes and statements -> the instructions of a Program.
#include "decode.h"

#include <algorithm>
#include <cctype>

namespace ptxemu {

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
      for (auto label : split(std::string_view(s.text).substr(targets + 14), ','))
        labels.push_back(function.name + ":" + std::string(label));
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
  static constexpr std::string_view words[] = {
      "rn",       "lo",   "approx", "noftz",  "sync", "aligned", "uni", "weak", "relaxed", "acquire", "release", "acq_rel", "sc",
      "volatile", "cta",  "gpu",    "sys",    "nc",   "ca",      "cg",  "cs",   "lu",      "cv",      "wb",      "wt",      "to",
      "async",    "wrap", "shared", "global", "m8n8", "v2",      "v4",  "gl",   "popc",    "idx",     "any",     "r",       "abs"};
  return parse_type(part) != Type::none || part.starts_with("L1") || part.starts_with("L2") ||
         std::find(std::begin(words), std::end(words), part) != std::end(words);
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
