// The small pieces of PTX text: type names, lists, declarations, literals (PTX ISA, "Syntax", "State Spaces, Types, and Variables").
#include "ptx.h"

#include <algorithm>
#include <cctype>
#include <cstring>

namespace ptxemu {
namespace {

struct TypeName {
  std::string_view name;
  Type type;
};
constexpr TypeName type_names[] = {
    {"pred", Type::pred},   {"b8", Type::b8},       {"b16", Type::b16},       {"b32", Type::b32}, {"b64", Type::b64},
    {"b128", Type::b128},   {"u8", Type::u8},       {"u16", Type::u16},       {"u32", Type::u32}, {"u64", Type::u64},
    {"s8", Type::s8},       {"s16", Type::s16},     {"s32", Type::s32},       {"s64", Type::s64}, {"f16", Type::f16},
    {"bf16", Type::bf16},   {"f16x2", Type::f16x2}, {"bf16x2", Type::bf16x2}, {"f32", Type::f32}, {"f64", Type::f64},
    {"u16x2", Type::u16x2}, {"s16x2", Type::s16x2},
};

bool space_of(std::string_view word, Space& space) {
  static constexpr std::pair<std::string_view, Space> spaces[] = {{".global", Space::global},  {".shared", Space::shared},
                                                                  {".local", Space::local},    {".param", Space::param},
                                                                  {".const", Space::constant}, {".reg", Space::reg}};
  for (auto& [name, value] : spaces)
    if (word == name || (word.starts_with(name) && word.substr(name.size()).starts_with("::"))) return space = value, true;
  return false;
}

}  // namespace

Type parse_type(std::string_view text) {
  for (auto& t : type_names)
    if (t.name == text) return t.type;
  return Type::none;
}

size_t bytes(Type type) {
  switch (type) {
    case Type::none:
    case Type::pred: return 0;
    case Type::b8:
    case Type::u8:
    case Type::s8: return 1;
    case Type::b16:
    case Type::u16:
    case Type::s16:
    case Type::f16:
    case Type::bf16: return 2;
    case Type::b64:
    case Type::u64:
    case Type::s64:
    case Type::f64: return 8;
    case Type::b128: return 16;
    default: return 4;
  }
}

bool is_signed(Type t) { return t == Type::s8 || t == Type::s16 || t == Type::s32 || t == Type::s64; }
bool is_float(Type t) { return t >= Type::f16; }

std::string_view trim(std::string_view text) {
  size_t from = text.find_first_not_of(" \t\r\n");
  if (from == text.npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r\n") - from + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  int depth = 0;
  size_t from = 0;
  for (size_t i = 0; i <= text.size(); i++) {
    char c = i < text.size() ? text[i] : separator;
    if (c == '{' || c == '[' || c == '(') depth++;
    if (c == '}' || c == ']' || c == ')') depth--;
    if (c == separator && !depth) {
      std::string_view part = trim(text.substr(from, i - from));
      if (!part.empty()) parts.push_back(part);
      from = i + 1;
    }
  }
  return parts;
}

std::vector<Declaration> parse_declarations(std::string_view text, int line) {
  Declaration d;
  d.line = line;
  size_t equals = text.find('=');
  if (equals != text.npos) d.initial = trim(text.substr(equals + 1)), text = trim(text.substr(0, equals));
  while (text.starts_with(".")) {
    size_t end = std::min(text.find_first_of(text.starts_with(".attribute") ? " \t\n" : " \t\n.", 1), text.size());
    std::string_view word = text.substr(0, end);
    text = trim(text.substr(end));
    Type type = parse_type(word.substr(1));
    if (type != Type::none) {
      d.type = type;
    } else if (word == ".align") {
      d.align = std::strtoul(std::string(text).c_str(), nullptr, 0);
      text = trim(text.substr(std::min(text.find_first_not_of("0123456789x"), text.size())));
    } else if (word == ".v2" || word == ".v4") {
      d.count = word[2] - '0';
    } else if (word == ".extern") {
      d.external = true;
    } else if (!space_of(word, d.space) && word != ".visible" && word != ".weak" && word != ".common" && word != ".ptr" &&
               word != ".managed" && word != ".attribute(.managed)" && word != ".unified") {
      fail_ptx(line, "unknown word '" + std::string(word) + "' in a declaration");
    }
  }
  if (d.type == Type::none) fail_ptx(line, "a declaration without a type: " + std::string(text));
  std::vector<Declaration> all;
  for (auto name : split(text, ',')) {
    Declaration one = d;
    size_t bracket = name.find('['), angle = name.find('<');
    one.name = trim(name.substr(0, std::min(bracket, angle)));
    if (angle != name.npos) one.parameterised = std::atoi(std::string(name.substr(angle + 1)).c_str());
    for (; bracket != name.npos; bracket = name.find('[', bracket + 1)) {
      std::string_view size = trim(name.substr(bracket + 1, name.find(']', bracket) - bracket - 1));
      one.count *= std::strtoull(std::string(size).c_str(), nullptr, 0);  // [] = sized by the launch or by the initial value
    }
    if (!one.count && !one.initial.empty()) one.count = split(one.initial.substr(1, one.initial.size() - 2), ',').size();
    if (!one.align) one.align = std::max<size_t>(1, bytes(one.type));
    all.push_back(one);
  }
  return all;
}

bool parse_literal(std::string_view text, Type type, uint64_t& bits) {
  std::string s(text);
  bool negative = s.starts_with('-');
  if (negative || s.starts_with('+')) s.erase(0, 1);
  if (s.empty() || !std::isdigit(static_cast<unsigned char>(s[0]))) return false;
  if (s.size() > 2 && s[0] == '0' && std::strchr("fFdD", s[1])) {
    bits = std::strtoull(s.c_str() + 2, nullptr, 16);
    bool single = s[1] == 'f' || s[1] == 'F';
    if (single && type == Type::f64) {  // 0f literal of a double
      uint32_t narrow = uint32_t(bits);
      float value;
      std::memcpy(&value, &narrow, 4);
      double wide = value;
      std::memcpy(&bits, &wide, 8);
    }
    return true;
  }
  if (s.find('.') != s.npos || (is_float(type) && bytes(type) >= 4 && type != Type::f16x2 && type != Type::bf16x2)) {
    double value = std::strtod(s.c_str(), nullptr) * (negative ? -1 : 1);
    if (bytes(type) == 8) return std::memcpy(&bits, &value, 8), true;
    float narrow = float(value);
    uint32_t word;
    std::memcpy(&word, &narrow, 4);
    return bits = word, true;
  }
  while (!s.empty() && (s.back() == 'U' || s.back() == 'u')) s.pop_back();
  bits = s.starts_with("0b") || s.starts_with("0B") ? std::strtoull(s.c_str() + 2, nullptr, 2) : std::strtoull(s.c_str(), nullptr, 0);
  if (negative) bits = -bits;
  return true;
}

void fail_ptx(int line, const std::string& message) {
  Error error(ErrorKind::bad_ptx, "bad PTX, line " + std::to_string(line) + ": " + message);
  error.ptx_line = line;
  throw error;
}

}  // namespace ptxemu
