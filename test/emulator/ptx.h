// PTX as text, cut into declarations and statements (parser.cc). Nothing is interpreted here.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "machine.h"

namespace ptxemu {

enum class Type : uint8_t {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  u16x2,
  s16x2,
  f16,
  f16x2,
  bf16,
  bf16x2,
  f32,
  f64,
};
Type parse_type(std::string_view text);  // "u32" -> Type::u32; none if it is no type
size_t bytes(Type type);                 // pred and none: 0
bool is_signed(Type type);
bool is_float(Type type);  // f16 ... f64

enum class Space : uint8_t { generic, global, shared, local, param, constant, reg };

struct Location { int file = 0, line = 0; };

// One variable declaration: state space, type, alignment, name, array (PTX ISA, "Variables").
struct Declaration {
  std::string name;
  Space space = Space::reg;
  Type type = Type::none;
  size_t align = 0, count = 1;  // elements
  bool external = false;        // sized by the launch or defined elsewhere
  int parameterised = 0;        // .reg .b32 %r<n>
  std::string initial;          // text behind '='
  int line = 0;
  size_t bytes() const { return ptxemu::bytes(type) * count; }
};

struct Statement {
  enum Kind : uint8_t { instruction, label, open, close, declaration, table };  // open, close: the braces of a scope
  Kind kind = instruction;
  std::string text;  // without ';' and comments; a label's name
  int line = 0;
  Location location;
};

struct Function {
  std::string name;
  bool entry = false, defined = false;
  std::vector<Declaration> parameters, results;
  Dim3 max_threads{0, 0, 0}, required_threads{0, 0, 0};
  int min_blocks = 0;
  std::vector<Statement> body;
};

struct Source {
  int target = 0;
  std::vector<Declaration> variables;  // .global, .const, .shared of the module
  std::vector<Function> functions;
  std::map<int, std::string> files;
};

Source parse_source(const std::string& text);

// Helpers of everyone who reads operands.
std::string_view trim(std::string_view text);
std::vector<std::string_view> split(std::string_view text, char separator);  // not inside {} [] ()
std::vector<Declaration> parse_declarations(std::string_view text, int line);
// An integer or a 0f / 0d literal, as the bits of a value of this type; false if it is neither.
bool parse_literal(std::string_view text, Type type, uint64_t& bits);

[[noreturn]] void fail_ptx(int line, const std::string& message);

}  // namespace ptxemu
