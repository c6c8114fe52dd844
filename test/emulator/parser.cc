// PTX text -> declarations, functions and their statements (PTX ISA, "Syntax", "Directives").
#include <algorithm>
#include <cctype>
#include <cstring>

#include "ptx.h"

namespace ptxemu {
namespace {

// Walks the text with a line number. Comments are blanked beforehand.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}
  int line() const { return line_; }
  bool end() {
    skip_space();
    return at_ >= text_.size();
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void take() { advance(); }

  // Everything up to one of the stops that is not inside parentheses, brackets or (with nest_braces) braces.
  std::string_view until(std::string_view stops, bool nest_braces = false) {
    skip_space();
    size_t from = at_;
    int depth = 0;
    bool quoted = false;
    for (; at_ < text_.size(); advance()) {
      char c = text_[at_];
      if (c == '"') quoted = !quoted;
      if (quoted) continue;
      if (!depth && stops.find(c) != stops.npos) break;
      if (c == '(' || c == '[' || (nest_braces && c == '{')) depth++;
      if (c == ')' || c == ']' || (nest_braces && c == '}')) depth--;
    }
    return text_.substr(from, at_ - from);
  }

 private:
  void advance() { line_ += text_[at_++] == '\n'; }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) advance();
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

void blank_comments(std::string& text) {
  for (size_t i = 0; i + 1 < text.size(); i++) {
    if (text[i] == '"') {
      i = text.find('"', i + 1);
      if (i == text.npos) return;
    } else if (text[i] == '/' && text[i + 1] == '/') {
      while (i < text.size() && text[i] != '\n') text[i++] = ' ';
    } else if (text[i] == '/' && text[i + 1] == '*') {
      size_t end = std::min(text.find("*/", i + 2), text.size() - 2) + 2;
      for (; i < end; i++)
        if (text[i] != '\n') text[i] = ' ';
    }
  }
}

// .loc and .file end with the line, not with ';': taken out first. `places` gets the .loc that holds from each line on.
void take_line_directives(std::string& text, Source& source, std::vector<Location>& places) {
  Location now;
  for (size_t from = 0; from < text.size();) {
    size_t end = std::min(text.find('\n', from), text.size());
    std::string_view line = trim(std::string_view(text).substr(from, end - from));
    bool blank = true;
    if (line.starts_with(".loc") && line.size() > 4 && std::isspace(static_cast<unsigned char>(line[4]))) {
      std::sscanf(std::string(line.substr(4)).c_str(), "%d %d", &now.file, &now.line);
    } else if (line.starts_with(".file")) {
      int file = std::atoi(std::string(line.substr(5)).c_str());
      size_t open = line.find('"'), close = line.rfind('"');
      if (open != line.npos && close > open) source.files[file] = line.substr(open + 1, close - open - 1);
    } else if (line.starts_with(".version") || line.starts_with(".address_size")) {
      if (line.starts_with(".address_size") && line.find("64") == line.npos)
        fail_ptx(int(places.size()) + 1, "addresses of 64 bits are needed");
    } else if (line.starts_with(".target")) {
      size_t digits = line.find("sm_");
      if (digits != line.npos) source.target = std::atoi(std::string(line.substr(digits + 3)).c_str());
    } else {
      blank = false;
    }
    if (blank) std::fill(text.begin() + from, text.begin() + end, ' ');
    places.push_back(now);
    from = end + 1;
  }
}

Dim3 three(std::string_view text) {
  auto parts = split(text, ',');
  Dim3 d{1, 1, 1};
  uint32_t* to[] = {&d.x, &d.y, &d.z};
  for (size_t i = 0; i < parts.size() && i < 3; i++) *to[i] = std::strtoul(std::string(parts[i]).c_str(), nullptr, 0);
  return d;
}

void parse_directives(std::string_view text, Function& function) {
  for (size_t at = 0; (at = text.find('.', at)) != text.npos;) {
    size_t end = std::min(text.find('.', at + 1), text.size());
    std::string_view directive = text.substr(at + 1, end - at - 1);
    size_t space = std::min(directive.find_first_of(" \t\n"), directive.size());
    std::string_view word = directive.substr(0, space), value = trim(directive.substr(space));
    if (word == "maxntid") function.max_threads = three(value);
    if (word == "reqntid") function.required_threads = three(value);
    if (word == "minnctapersm") function.min_blocks = std::atoi(std::string(value).c_str());
    at = end;
  }
}

void parse_body(Scanner& in, Function& function, const std::vector<Location>& places) {
  int depth = 1;
  auto add = [&](Statement::Kind kind, std::string_view text, int line) {
    Location place = line <= int(places.size()) ? places[line - 1] : Location{};
    function.body.push_back({kind, std::string(trim(text)), line, place});
  };
  for (;;) {
    if (in.end()) fail_ptx(in.line(), "expected '}' at the end of " + function.name + " but the text ends");
    int line = in.line();
    char c = in.peek();
    if (c == '{') {
      in.take(), depth++;
      add(Statement::open, "{", line);
    } else if (c == '}') {
      in.take();
      if (!--depth) return;
      add(Statement::close, "}", line);
    } else if (c == ';') {
      in.take();
    } else {
      std::string_view text = in.until(";:", true);
      // "a::b" belongs to an opcode; a single ':' ends a label.
      std::string whole(text);
      while (in.peek() == ':') {
        in.take();
        if (in.peek() != ':') {
          std::string_view rest = trim(whole);
          if (rest.find_first_of(" \t") == rest.npos) break;
          whole += ':';
        } else {
          in.take();
          whole += "::";
        }
        whole += in.until(";:", true);
      }
      if (in.peek() == ';') {
        std::string_view t = trim(whole);
        in.take();
        if (t.starts_with(".pragma")) continue;
        if (t.starts_with(".branchtargets") || t.starts_with(".callprototype") || t.starts_with(".calltargets")) {
          Statement& label = function.body.back();  // name: .branchtargets a, b;
          label.kind = Statement::table;
          label.text += " " + std::string(t);
          continue;
        }
        add(t.starts_with(".") ? Statement::declaration : Statement::instruction, t, line);
      } else {
        add(Statement::label, whole, line);
      }
    }
  }
}

void parse_function(Scanner& in, std::string_view head, int line, Source& source, const std::vector<Location>& places) {
  Function f;
  f.entry = head.find(".entry") != head.npos;
  std::string_view rest = trim(head.substr(head.find(f.entry ? ".entry" : ".func") + (f.entry ? 6 : 5)));
  while (rest.starts_with(".noreturn")) rest = trim(rest.substr(9));
  auto bracketed = [&]() {
    size_t close = rest.find(')');
    if (close == rest.npos) fail_ptx(line, "expected ')' in the head of a function");
    std::string_view inside = rest.substr(1, close - 1);
    rest = trim(rest.substr(close + 1));
    return inside;
  };
  auto declarations = [&](std::string_view list) {
    std::vector<Declaration> all;
    for (auto one : split(list, ','))
      for (auto& d : parse_declarations(one, line)) all.push_back(d);
    return all;
  };
  if (rest.starts_with("(")) f.results = declarations(bracketed());
  size_t end = std::min(rest.find_first_of("( \t\n"), rest.size());
  f.name = rest.substr(0, end);
  rest = trim(rest.substr(end));
  if (rest.starts_with("(")) f.parameters = declarations(bracketed());
  parse_directives(rest, f);
  if (in.peek() == '{') {
    in.take();
    f.defined = true;
    parse_body(in, f, places);
  } else {
    in.take();
  }
  source.functions.push_back(std::move(f));
}

}  // namespace

Source parse_source(const std::string& original) {
  Source source;
  std::vector<Location> places;
  std::string text = original.substr(0, original.find('\0'));
  blank_comments(text);
  take_line_directives(text, source, places);
  Scanner in(text);
  while (!in.end()) {
    int line = in.line();
    std::string_view head = in.until(";{=");
    if (head.find(".entry") != head.npos || head.find(".func") != head.npos) {
      parse_function(in, head, line, source, places);
    } else if (head.starts_with(".section")) {
      in.take();
      in.until("}");
      in.take();
    } else if (head.starts_with(".pragma") || head.starts_with(".alias") || head.empty()) {
      in.take();
    } else {
      std::string declaration(head);
      if (in.peek() == '=') declaration += in.until(";", true);
      in.take();
      for (auto& d : parse_declarations(declaration, line)) source.variables.push_back(d);
    }
  }
  return source;
}

}  // namespace ptxemu
