// Errors: the core throws Error{code, message} and nothing else; it never aborts or exits, and prints for LORAFUSE_DEBUG alone.
#pragma once
#include <cstdint>
#include <limits>
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

// A part of a sentence. Names and words, which may come from outside, are cut where they are longer than any of ours.
template <class Part> const Part& shown(const Part& part) { return part; }
inline std::string shown(const std::string& part) {
  constexpr size_t kLongest = 256;
  if (part.size() <= kLongest) return part;
  size_t end = kLongest;
  while (end > 0 && (part[end] & 0xc0) == 0x80) end--;  // not within a character of UTF-8
  return part.substr(0, end) + "…";
}

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << shown(parts));
  return out.str();
}

}  // namespace lorafuse

// CHECK(condition, "CODE", "[op] what was expected, ", value, " what came"): the message is only built when it fails.
#define CHECK(condition, code, ...) \
  do { \
    if (!(condition)) throw ::lorafuse::Error(code, ::lorafuse::text(__VA_ARGS__)); \
  } while (0)

namespace lorafuse {

// x as an int. Throws NOT_SUPPORTED, naming `what`, where it is none.
inline int to_int(int64_t x, const char* what) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  CHECK(x >= -kMost && x <= kMost, "NOT_SUPPORTED", "Expected at most ", kMost, " for ", what, " but received ", x);
  return static_cast<int>(x);
}

}  // namespace lorafuse
