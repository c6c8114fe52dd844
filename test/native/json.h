// JSON (RFC 8259) of the fixtures: small, strict, without surrogate pairs.
#pragma once
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace lorafuse::test {

struct Json {
  using List = std::vector<Json>;
  using Members = std::map<std::string, Json>;
  std::variant<std::nullptr_t, bool, double, std::string, List, Members> value = nullptr;

  // Throw Failure where it is something else, or has no such member.
  double number() const;
  int64_t integer() const;
  const std::string& string() const;
  const List& list() const;
  const Members& members() const;
  const Json& operator[](const std::string& name) const;
  std::vector<int64_t> integers() const;
};

// Throws Failure with `where`, what was expected and at which byte.
Json parse_json(const std::string& text, const std::string& where);

}  // namespace lorafuse::test
