// The test runner of all native tests: cases whose names are sentences, op rows or instructions, registered by suites.
//   SUITE(planner) { test_case("two buffers that live at once never overlap", [] { EXPECT(…, "…"); }); }
#pragma once
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace test_runner {

struct Failure : std::runtime_error { using std::runtime_error::runtime_error; };

// Registers a suite before main; run_cases calls `fill`, which adds the cases.
bool suite(const char* name, void (*fill)());
void test_case(std::string name, std::function<void()> body);
// Prints a line under the running case, whether the case passes or fails.
void note(const std::string& line);

// What a program was asked to run:
//   [words …] [--except word] [--quick] [--until-failure]
struct Selection {
  std::vector<std::string> words;  // a case runs if its name contains all of them; a case that is named exactly so runs alone
  std::string except;              // cases whose name contains it do not run; "" = none
  bool quick = false;              // suites add only what covers each kernel and each op (see test/native/coverage.h)
  bool until_failure = false;      // ends after the first case that fails
};
// Throws std::invalid_argument for an option that does not exist.
Selection selection(const std::vector<std::string>& arguments);

// Whether suites should add a selection of their cases instead of all.
bool quick();

// Says what went wrong; a program that has errors of its own adds what they carry, such as a code.
using Describe = std::string (*)(const std::exception&);
std::string describe(const std::exception& e);

// Runs the cases and prints how each went; `program` is named in the command that runs one again. Returns the exit code.
int run_cases(const std::string& program, const Selection& selection, Describe describe = describe);

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace test_runner

#define SUITE(name) \
  static void fill_##name(); \
  [[maybe_unused]] static const bool registered_##name = ::test_runner::suite(#name, fill_##name); \
  static void fill_##name()

#define EXPECT(condition, ...) \
  do { \
    if (!(condition)) throw ::test_runner::Failure(::test_runner::text(#condition ": ", __VA_ARGS__)); \
  } while (0)
