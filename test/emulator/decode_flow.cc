// Branches, calls and returns (PTX ISA, "Control Flow Instructions", "Functions").
#include <cstdio>

#include "decode.h"
#include "instructions/external.h"
#include "instructions/lanes.h"

namespace ptxemu {

void Decoder::decode_branch() {
  bool indexed = parts_[0] == "brx";
  std::string label = function_->name + ":" + std::string(operand(indexed ? 1 : 0));
  if (indexed) source(0, Type::u32);
  jumps_.push_back({int(program_.code.size()), label, indexed});
  emit_flow(indexed ? Flow::branch_index : Flow::branch);
}

void Decoder::decode_return(bool exits) {
  if (!current_ || exits) return emit_flow(Flow::exit);
  current_->ret_at.push_back(int(program_.code.size()));
  in.operand[in.sources++] = current_->link;
  emit_flow(Flow::ret);
}

Decoder::Subroutine& Decoder::subroutine(const Function& function) {
  auto [it, fresh] = subroutines_.try_emplace(function.name);
  if (fresh) {
    it->second.function = &function;
    it->second.link = new_register(Type::u32).operand;
    for (auto& p : function.parameters) it->second.parameters.push_back(new_local(p));
    for (auto& r : function.results) it->second.results.push_back(new_local(r));
  }
  return it->second;
}

void Decoder::copy_local(uint64_t to, uint64_t from, size_t bytes) {
  in.offset = int64_t(to << 32 | from);
  in.target = int(bytes);
  emit([](Warp& w, const Instruction& in, uint32_t mask) {
    Block& b = *w.block;
    each_active(mask, [&](int lane) {
      char* base = b.local.data() + (w.id * 32 + lane) * b.program->local_bytes;
      std::memcpy(base + (uint64_t(in.offset) >> 32), base + uint32_t(in.offset), size_t(in.target));
    });
  });
}

// call (results), name, (arguments);  call name, (arguments);  call name;
void Decoder::decode_call() {
  size_t at = 0;
  std::vector<Symbol> results, arguments;
  auto list = [&](std::string_view text, std::vector<Symbol>& symbols) {
    for (auto name : split(text.substr(1, text.size() - 2), ',')) {
      const Symbol* s = find(name);
      if (!s || s->kind != Symbol::local) unknown();
      symbols.push_back(*s);
    }
  };
  if (operand(0).starts_with('(')) list(operand(at++), results);
  std::string name(operand(at++));
  if (at < operands_.size()) list(operand(at++), arguments);
  auto known = module_.functions.find(name);
  if (known == module_.functions.end() || at < operands_.size()) unknown();
  const Function& callee = *known->second;
  if (!callee.defined) return decode_call_external(name, arguments, results);
  if (callee.parameters.size() != arguments.size() || callee.results.size() != results.size()) unknown();
  for (auto& [pc, from] : calls_)
    if (current_ && from == function_->name && callee.name == function_->name) unknown();  // recursion
  Subroutine& s = subroutine(callee);
  for (size_t i = 0; i < arguments.size(); i++) copy_local(s.parameters[i].offset, arguments[i].offset, arguments[i].bytes);
  calls_.push_back({int(program_.code.size()), name});
  in.operand[in.targets++] = s.link;
  emit_flow(Flow::call);
  s.returns_to.push_back(int(program_.code.size()));
  for (size_t i = 0; i < results.size(); i++) copy_local(results[i].offset, s.results[i].offset, results[i].bytes);
  if (results.empty()) emit([](Warp&, const Instruction&, uint32_t) {});  // the place to return to
}

void Decoder::decode_call_external(const std::string& name, const std::vector<Symbol>& arguments, const std::vector<Symbol>& results) {
  Handler handler = name == "vprintf" ? call_vprintf : name == "__assertfail" ? call_assertfail : nullptr;
  if (!handler) unknown();
  for (auto& a : arguments) constant(a.offset, Type::u64);
  for (auto& r : results) constant(r.offset, Type::u64);
  emit(handler);
}

void Decoder::decode_subroutines() {
  std::map<std::string, bool> done;
  for (bool more = true; more;) {
    more = false;
    for (auto& [name, s] : subroutines_) {
      if (done[name]) continue;
      done[name] = more = true;
      current_ = &s;
      s.entry = int(program_.code.size());
      scopes_.emplace_back();
      for (size_t i = 0; i < s.parameters.size(); i++) scopes_.back()[s.function->parameters[i].name] = s.parameters[i];
      for (size_t i = 0; i < s.results.size(); i++) scopes_.back()[s.function->results[i].name] = s.results[i];
      decode_body(*s.function);
      scopes_.pop_back();
      break;  // new subroutines may have been added
    }
  }
  current_ = nullptr;
}

void Decoder::resolve_jumps() {
  auto pc_of = [&](const std::string& label, int pc) {
    auto it = labels_.find(label);
    if (it == labels_.end()) fail_ptx(program_.lines[pc].ptx_line, "no such label: " + label);
    return it->second;
  };
  for (auto& jump : jumps_) {
    Instruction& in = program_.code[jump.pc];
    if (!jump.table) {
      in.target = pc_of(jump.label, jump.pc);
      continue;
    }
    auto it = label_tables_.find(jump.label);
    if (it == label_tables_.end()) fail_ptx(program_.lines[jump.pc].ptx_line, "no such table: " + jump.label);
    std::vector<int> table;
    for (auto& label : it->second) table.push_back(pc_of(label, jump.pc));
    in.target = int(program_.tables.size());
    program_.tables.push_back(table);
  }
  for (auto& [pc, name] : calls_) program_.code[pc].target = subroutines_.at(name).entry;
}

}  // namespace ptxemu
