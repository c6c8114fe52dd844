// A network's config, or the settings of a call: named values as they came from TypeScript, read where they are used.
#pragma once
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "check.h"

namespace lorafuse {

class Config {
 public:
  using Value = std::variant<bool, double, std::string, std::vector<double>, std::vector<std::string>>;
  using Values = std::map<std::string, Value>;

  Config() = default;
  // where: whose config it is, for errors.
  Config(std::string where, Values values) : where_(std::move(where)), values_(std::move(values)) {}

  // Throw CONFIG_INVALID, naming the value, where it is missing, of another type or out of range.
  int64_t whole(const std::string& name) const { return whole(name, get<double>(name, "a whole number"), 0); }  // 0 or more
  int64_t count(const std::string& name) const { return whole(name, get<double>(name, "a whole number"), 1); }  // 1 or more
  double real(const std::string& name) const { return get<double>(name, "a number"); }
  bool flag(const std::string& name) const { return get<bool>(name, "true or false"); }
  const std::string& word(const std::string& name) const { return get<std::string>(name, "a word"); }
  const std::vector<std::string>& words(const std::string& name) const { return get<std::vector<std::string>>(name, "a list of words"); }
  std::vector<int64_t> counts(const std::string& name) const {
    std::vector<int64_t> all;
    for (double x : get<std::vector<double>>(name, "a list of whole numbers")) all.push_back(whole(name, x, 1));
    CHECK(!all.empty() && all.size() <= 32, "CONFIG_INVALID", "Expected 1 to 32 numbers for ", name, " of ", where_, " but received ",
          all.size());
    return all;
  }
  bool has(const std::string& name) const { return values_.contains(name); }
  // Throws CONFIG_INVALID unless the list `name` has `length` entries.
  void expect_length(const std::string& name, size_t received, size_t length) const {
    CHECK(received == length, "CONFIG_INVALID", "Expected ", length, " entries for ", name, " of ", where_, " but received ", received);
  }

  bool operator<(const Config& other) const { return values_ < other.values_; }

 private:
  template <class T> const T& get(const std::string& name, const char* expected) const {
    const auto found = values_.find(name);
    const T* value = found == values_.end() ? nullptr : std::get_if<T>(&found->second);
    CHECK(value, "CONFIG_INVALID", "Expected ", expected, " for ", name, " of ", where_, " but received ",
          found == values_.end() ? "none" : "something else");
    return *value;
  }
  int64_t whole(const std::string& name, double x, int64_t least) const {
    constexpr double kMost = 1 << 30;  // an int holds it, and products of two do not overflow
    CHECK(x >= static_cast<double>(least) && x <= kMost && x == std::floor(x), "CONFIG_INVALID", "Expected a whole number from ", least,
          " to ", kMost, " for ", name, " of ", where_, " but received ", x);
    return static_cast<int64_t>(x);
  }

  std::string where_;
  Values values_;
};

}  // namespace lorafuse
