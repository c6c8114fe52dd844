#include "json.h"

#include <charconv>
#include <cmath>

#include "test.h"

namespace lorafuse::test {
namespace {

class Parser {
 public:
  Parser(const std::string& text, const std::string& where) : text_(text), where_(where) {}

  Json whole() {
    Json value = next();
    skip_spaces();
    if (at_ != text_.size()) fail("the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& expected) const {
    const std::string found = at_ < text_.size() ? text_.substr(at_, 12) : "the end";
    throw Failure(where_ + ": expected " + expected + " at byte " + std::to_string(at_) + " of its JSON but found " + found);
  }
  void skip_spaces() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
  bool take(const std::string& word) {
    skip_spaces();
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }
  void expect(const std::string& word) {
    if (!take(word)) fail(word);
  }

  Json next() {
    if (take("{")) return {members()};
    if (take("[")) return {list()};
    if (take("\"")) return {string()};
    if (take("true")) return {true};
    if (take("false")) return {false};
    if (take("null")) return {nullptr};
    return {number()};
  }
  Json::Members members() {
    Json::Members found;
    if (take("}")) return found;
    do {
      expect("\"");
      const std::string name = string();
      expect(":");
      if (!found.emplace(name, next()).second) fail("no second member " + name);
    } while (take(","));
    expect("}");
    return found;
  }
  Json::List list() {
    Json::List found;
    if (take("]")) return found;
    do found.push_back(next());
    while (take(","));
    expect("]");
    return found;
  }
  double number() {
    double x = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), x);
    if (error != std::errc() || !std::isfinite(x)) fail("a value");
    at_ = end - text_.data();
    return x;
  }
  std::string string() {
    std::string s;
    while (at_ < text_.size() && text_[at_] != '"') s += text_[at_] == '\\' ? escaped() : text_[at_++];
    if (at_ == text_.size()) fail("\"");
    at_++;
    return s;
  }
  char escaped() {
    static const std::map<char, char> kEscapes = {{'"', '"'},  {'\\', '\\'}, {'/', '/'},  {'b', '\b'},
                                                  {'f', '\f'}, {'n', '\n'},  {'r', '\r'}, {'t', '\t'}};
    const auto found = at_ + 1 < text_.size() ? kEscapes.find(text_[at_ + 1]) : kEscapes.end();
    if (found == kEscapes.end()) fail("an escape of one character");
    at_ += 2;
    return found->second;
  }

  const std::string& text_;
  const std::string& where_;
  size_t at_ = 0;
};

template <class T> const T& as(const Json& json, const char* kind) {
  const T* value = std::get_if<T>(&json.value);
  if (!value) throw Failure(std::string("expected ") + kind + " but the JSON has another kind of value");
  return *value;
}

}  // namespace

double Json::number() const { return as<double>(*this, "a number"); }
int64_t Json::integer() const {
  const double x = number();
  if (x != std::floor(x) || std::fabs(x) > 0x1p53) throw Failure("expected an integer but the JSON has " + std::to_string(x));
  return static_cast<int64_t>(x);
}
const std::string& Json::string() const { return as<std::string>(*this, "a string"); }
const Json::List& Json::list() const { return as<List>(*this, "a list"); }
const Json::Members& Json::members() const { return as<Members>(*this, "members"); }
const Json& Json::operator[](const std::string& name) const {
  const auto found = members().find(name);
  if (found == members().end()) throw Failure("expected member " + name + " but the JSON lacks it");
  return found->second;
}
std::vector<int64_t> Json::integers() const {
  std::vector<int64_t> all;
  for (const Json& each : list()) all.push_back(each.integer());
  return all;
}

Json parse_json(const std::string& text, const std::string& where) { return Parser(text, where).whole(); }

}  // namespace lorafuse::test
