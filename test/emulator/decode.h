// Statements -> Instructions. Each file of instructions/ adds the opcodes it knows to one table.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx.h"
#include "warp/warp.h"

namespace ptxemu {

struct Module::State {
  std::string name;
  Source source;
  std::map<std::string, Variable> variables;
  std::map<std::string, Kernel> kernels;
  std::map<std::string, const Function*> functions;
  std::map<const Kernel*, std::unique_ptr<Program>> programs;
  bool loaded = false;
  const Program& program(const Kernel& kernel);
};

class Decoder;
using Decode = void (*)(Decoder&);
const std::unordered_map<std::string_view, Decode>& decode_table();

// Reads the operands of the statement at hand. Targets must be asked for before sources.
class Decoder {
 public:
  Decoder(Module::State& module, const Kernel& kernel, Program& program);
  void decode_kernel();

  // ---- the statement at hand ----
  // "ld.global.v2.f32" -> ld, global, v2, f32. A part that no one asks for, and that is not known to change nothing, makes the statement
  // unknown.
  std::string_view part(size_t i) const { return asked_ |= 1u << i, parts_[i]; }
  const std::vector<std::string_view>& parts() const { return asked_ = ~0u, parts_; }
  bool has(std::string_view part) const;
  Type type() const;                    // the last part
  Type type_at(size_t from_end) const;  // 0 = the last part
  const std::vector<std::string_view>& operands() const { return operands_; }
  std::string_view operand(size_t i) const;
  static std::vector<std::string_view> elements(std::string_view vector);  // {a, b} -> a, b
  [[noreturn]] void unknown() const;                                       // this opcode with these qualifiers or operands
  void expect_operands(size_t count) const;

  // ---- building the instruction ----
  Instruction in;
  void target(std::string_view text, Type type);  // "_" = nowhere
  void source(std::string_view text, Type type);
  void target(size_t i, Type type) { target(operand(i), type); }
  void source(size_t i, Type type) { source(operand(i), type); }
  bool negated(size_t i) const { return operand(i).starts_with('!'); }
  void predicate_source(size_t i) { source(operand(i).substr(negated(i)), Type::pred); }  // !p: ask negated()
  void sources(size_t from, size_t count, Type type) {
    while (count--) source(from++, type);
  }
  void constant(uint64_t bits, Type type);            // a source with the same value in every lane
  Space address(std::string_view text, Space space);  // [base+offset]: a source of 32 or 64 bits (in.aux bit 0 = 64), in.offset
  void emit(Handler handler);                         // unknown() if there is none
  void emit_flow(Flow flow);

  Space space() const;                        // .global, .shared, ... of the opcode
  void note_shared_access(size_t bytes);      // the smallest decides how fine the race cells are
  bool is_wide(std::string_view text) const;  // a register of 64 bits
  bool is_predicate(std::string_view text) const;
  uint32_t new_operand(Type type) { return new_register(type).operand; }  // for a statement that needs several instructions
  bool is_special(std::string_view text) const;                           // %tid.x, ... and no register

 private:
  struct Symbol {
    enum Kind : uint8_t { reg, shared, local, param } kind = reg;
    Type type = Type::none;
    uint32_t operand = 0;  // of a register
    uint64_t offset = 0;   // of the others
    size_t bytes = 0;
  };
  using Scope = std::unordered_map<std::string, Symbol>;
  // A .func becomes a subroutine: its parameters lie at fixed places of local memory, a register of each lane holds where to return.
  struct Subroutine {
    const Function* function = nullptr;
    int entry = 0;
    uint32_t link = 0;
    std::vector<Symbol> parameters, results;
    std::vector<int> returns_to, ret_at;  // pc
  };

  void decode_body(const Function& function);
  void decode_statement(const Statement& statement);
  void declare(std::string_view text, int line);
  void decode_branch();  // decode_flow.cc
  void decode_call();
  void decode_call_external(const std::string& name, const std::vector<Symbol>& arguments, const std::vector<Symbol>& results);
  void decode_return(bool exits);
  void decode_subroutines();
  void resolve_jumps();
  Subroutine& subroutine(const Function& function);
  void copy_local(uint64_t to, uint64_t from, size_t bytes);

  Symbol new_register(Type type);
  Symbol new_local(const Declaration& declaration);
  const Symbol* find(std::string_view name) const;
  uint32_t resolve(std::string_view text, Type type);
  uint32_t immediate(uint64_t bits, bool wide);
  uint32_t special(std::string_view name);
  bool symbol_address(std::string_view text, uint64_t& bits) const;
  void begin(const Statement& statement);

  Module::State& module_;
  const Kernel& kernel_;
  Program& program_;
  const Function* function_ = nullptr;
  const Statement* statement_ = nullptr;
  Statement end_;  // of a body that does not say ret
  std::string opcode_, rest_;
  std::vector<std::string_view> parts_, operands_;
  mutable uint32_t asked_ = 0;  // bit i: part i has been looked at
  std::vector<Scope> scopes_;
  std::vector<bool> wide_;  // [register]
  std::map<std::pair<uint64_t, bool>, uint32_t> immediates_;
  std::map<Special, uint32_t> specials_;
  std::map<std::string, int> labels_;  // "function:label"
  std::map<std::string, std::vector<std::string>> label_tables_;
  struct Jump {
    int pc;
    std::string label;
    bool table;
  };
  std::vector<Jump> jumps_;
  std::map<std::string, Subroutine> subroutines_;
  std::vector<std::pair<int, std::string>> calls_;  // pc, function
  Subroutine* current_ = nullptr;
};

// Where the .shared variables of a kernel and of the functions it calls lie.
struct SharedLayout {
  std::map<std::pair<std::string, int>, uint64_t> offsets;  // name and line of the declaration
  std::map<std::string, uint64_t> dynamic;                  // extern arrays: all at the end of the static ones
  size_t static_bytes = 0, dynamic_at = 0;
};
SharedLayout layout_shared(const Module::State& module, const Function& entry);

// Gives registers that never live at the same time the same place (decode_registers.cc).
void place_registers(Program& program, const std::vector<bool>& wide, const std::map<int, std::vector<int>>& returns);

}  // namespace ptxemu
