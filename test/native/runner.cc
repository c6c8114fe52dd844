// Runs the cases whose name contains a text, or the one that is named exactly so.
#include <chrono>
#include <cstdio>
#include <set>
#include <vector>

#include "test.h"

namespace lorafuse::test {
namespace {

struct Case {
  std::string suite, name;
  std::function<void()> body;
};
struct Suite {
  const char* name;
  void (*fill)();
};

// Suites register before main, from several files in any order.
std::vector<Suite>& suites() {
  static std::vector<Suite> all;
  return all;
}
std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

const char* filling = "";  // the suite that adds its cases

// What went wrong, or nothing.
std::string failure_of(const Case& c) {
  try {
    c.body();
    return "";
  } catch (const Error& e) {
    return "unexpected " + e.code() + ": " + e.what();
  } catch (const std::exception& e) {
    return e.what();
  }
}

std::vector<Case> chosen(const std::string& filter) {
  std::vector<Case> containing;
  for (const Case& c : cases()) {
    if (c.name == filter) return {c};
    if (c.name.find(filter) != std::string::npos) containing.push_back(c);
  }
  return containing;
}

}  // namespace

int run_cases(const char* program, const std::string& filter) {
  for (const Suite& s : suites()) {
    filling = s.name;
    s.fill();
  }
  const std::vector<Case> selected = chosen(filter);
  if (selected.empty()) {
    std::printf("No case has \"%s\" in its name\n", filter.c_str());
    return 1;
  }
  std::string suite;
  size_t failed = 0;
  for (const Case& c : selected) {
    if (c.suite != suite) std::printf("# %s\n", (suite = c.suite).c_str());
    const auto begin = std::chrono::steady_clock::now();
    const std::string failure = failure_of(c);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    if (failure.empty()) {
      std::printf("ok %s (%.0f ms)\n", c.name.c_str(), ms);
    } else {
      failed++;
      std::printf("FAILED %s\n  %s\n  again: %s \"%s\"\n", c.name.c_str(), failure.c_str(), program, c.name.c_str());
    }
    std::fflush(stdout);
  }
  std::printf("%zu passed, %zu failed\n", selected.size() - failed, failed);
  return failed ? 1 : 0;
}

bool suite(const char* name, void (*fill)()) {
  suites().push_back({name, fill});
  return true;
}

void test_case(std::string name, std::function<void()> body) {
  static std::set<std::string> names;
  if (!names.insert(name).second) throw std::logic_error("two cases are named " + name);
  cases().push_back({filling, std::move(name), std::move(body)});
}

void note(const std::string& line) { std::printf("  %s\n", line.c_str()); }

std::string expect_error(const std::string& code, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    if (e.code() != code) throw Failure("expected " + code + " but received " + e.code() + ": " + e.what());
    return e.what();
  }
  throw Failure("expected " + code + " but nothing was thrown");
}

}  // namespace lorafuse::test
