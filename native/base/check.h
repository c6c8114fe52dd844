// Errors: the core throws Error{code, message} and nothing else; it never aborts or exits, and prints for LORAFUSE_DEBUG alone.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace lorafuse {

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace lorafuse

// CHECK(condition, "CODE", "[op] what was expected, ", value, " what came"): the message is only built when it fails.
#define CHECK(condition, code, ...) \
  do { \
    if (!(condition)) throw ::lorafuse::Error(code, ::lorafuse::text(__VA_ARGS__)); \
  } while (0)
