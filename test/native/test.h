// The test runner: cases with names that are sentences or op rows, registered by suites, chosen by a part of their name.
//   SUITE(planner) { test_case("two buffers that live at once never overlap", [] { EXPECT(…, "…"); }); }
#pragma once
#include <functional>
#include <stdexcept>
#include <string>

#include "base/check.h"

namespace lorafuse::test {

struct Failure : std::runtime_error { using std::runtime_error::runtime_error; };

// Registers a suite before main; main calls `fill`, which adds the cases.
bool suite(const char* name, void (*fill)());
// Runs the chosen cases and prints how it went; `program` is named in how to run one again. Returns the exit code.
int run_cases(const char* program, const std::string& filter);
void test_case(std::string name, std::function<void()> body);
// A line under the running case, printed whether it passes or not.
void note(const std::string& line);

// Runs `body`, which must throw an Error with this code, and returns its message.
std::string expect_error(const std::string& code, const std::function<void()>& body);

}  // namespace lorafuse::test

#define SUITE(name) \
  static void fill_##name(); \
  [[maybe_unused]] static const bool registered_##name = ::lorafuse::test::suite(#name, fill_##name); \
  static void fill_##name()

#define EXPECT(condition, ...) \
  do { \
    if (!(condition)) throw ::lorafuse::test::Failure(::lorafuse::text(#condition ": ", __VA_ARGS__)); \
  } while (0)
