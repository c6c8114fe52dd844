// emulator_tests [--ptx folder] [part of a name]: runs the cases whose name contains it, or the one that is named exactly so.
// --ptx writes the text of every module there, so that ptxas can say whether the cases are legal PTX.
#include <chrono>
#include <cstdio>
#include <set>
#include <vector>

#include "device.h"

namespace ptxemu::test {
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
  } catch (const Failure& e) {
    return e.what();
  } catch (const std::exception& e) {
    return text("unexpected exception: ", e.what());
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

int run(const char* program, const std::string& filter) {
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

}  // namespace

bool suite(const char* name, void (*fill)()) {
  suites().push_back({name, fill});
  return true;
}

void test_case(std::string name, std::function<void()> body) {
  static std::set<std::string> names;
  if (!names.insert(name).second) throw std::logic_error("two cases are named " + name);
  cases().push_back({filling, std::move(name), std::move(body)});
}

}  // namespace ptxemu::test

int main(int count, char** arguments) {
  std::string filter;
  for (int i = 1; i < count; i++) {
    if (std::string(arguments[i]) == "--ptx" && i + 1 < count) ptxemu::test::ptx_folder = arguments[++i];
    else filter = arguments[i];
  }
  return ptxemu::test::run(arguments[0], filter);
}
