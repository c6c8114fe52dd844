// The test runner: cases with names that are sentences or instructions, registered by suites, chosen by a part of their name.
//   SUITE(shuffles) { test_case("shfl.sync.up stays inside its segment", [] { EXPECT(…, "…"); }); }
#pragma once
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace ptxemu::test {

struct Failure : std::runtime_error { using std::runtime_error::runtime_error; };

// Registers a suite before main; main calls `fill`, which adds the cases.
bool suite(const char* name, void (*fill)());
void test_case(std::string name, std::function<void()> body);

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace ptxemu::test

#define SUITE(name) \
  static void fill_##name(); \
  [[maybe_unused]] static const bool registered_##name = ::ptxemu::test::suite(#name, fill_##name); \
  static void fill_##name()

#define EXPECT(condition, ...) \
  do { \
    if (!(condition)) throw ::ptxemu::test::Failure(::ptxemu::test::text(#condition ": ", __VA_ARGS__)); \
  } while (0)
