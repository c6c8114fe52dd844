#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

namespace test_runner {
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
bool is_quick = false;

// The error of a case, or "" if it passes.
std::string failure_of(const Case& c, Describe describe) {
  try {
    c.body();
    return "";
  } catch (const std::exception& e) { return describe(e); }
}

std::vector<Case> chosen(const Selection& s) {
  const auto contains = [](const Case& c, const std::string& word) { return c.name.find(word) != std::string::npos; };
  std::vector<Case> containing;
  for (const Case& c : cases()) {
    if (s.words == std::vector{c.name}) return {c};
    const bool all = std::all_of(s.words.begin(), s.words.end(), [&](const std::string& word) { return contains(c, word); });
    if (all && (s.except.empty() || !contains(c, s.except))) containing.push_back(c);
  }
  return containing;
}

}  // namespace

Selection selection(const std::vector<std::string>& arguments) {
  Selection s;
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& word = arguments[i];
    if (word == "--quick") s.quick = true;
    else if (word == "--until-failure") s.until_failure = true;
    else if (word == "--except" && i + 1 < arguments.size()) s.except = arguments[++i];
    else if (word.starts_with("--")) throw std::invalid_argument("expected --quick, --until-failure or --except word but received " + word);
    else s.words.push_back(word);
  }
  return s;
}

bool quick() { return is_quick; }

std::string describe(const std::exception& e) {
  return dynamic_cast<const Failure*>(&e) ? e.what() : text("unexpected exception: ", e.what());
}

int run_cases(const std::string& program, const Selection& selection, Describe describe) {
  is_quick = selection.quick;
  for (const Suite& s : suites()) {
    filling = s.name;
    s.fill();
  }
  const std::vector<Case> selected = chosen(selection);
  if (selected.empty()) {
    std::printf("No case has the given words in its name\n");
    return 1;
  }
  std::string suite;
  size_t passed = 0, failed = 0;
  for (const Case& c : selected) {
    if (c.suite != suite) std::printf("# %s\n", (suite = c.suite).c_str());
    const auto begin = std::chrono::steady_clock::now();
    const std::string failure = failure_of(c, describe);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    if (failure.empty()) {
      passed++;
      std::printf("ok %s (%.0f ms)\n", c.name.c_str(), ms);
    } else {
      failed++;
      std::printf("FAILED %s\n  %s\n  again: %s \"%s\"\n", c.name.c_str(), failure.c_str(), program.c_str(), c.name.c_str());
    }
    std::fflush(stdout);
    if (failed && selection.until_failure) break;
  }
  std::printf("%zu passed, %zu failed\n", passed, failed);
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

}  // namespace test_runner
