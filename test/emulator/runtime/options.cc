#include "runtime/options.h"

#include <cctype>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <stdexcept>

namespace ptxemu {
namespace {

[[noreturn]] void bad(const std::string& name, const std::string& value, const std::string& expected) {
  throw std::invalid_argument("PTXEMU_" + name + "=" + value + ": expected " + expected);
}

uint64_t number(const std::string& name, const std::string& value, const char* expected, bool with_unit = false) {
  char* end = nullptr;
  const uint64_t parsed = value.empty() || !std::isdigit(static_cast<unsigned char>(value[0])) ? 0 : std::strtoull(value.c_str(), &end, 10);
  if (!end) bad(name, value, expected);
  const std::string unit = end;
  if (unit.empty()) return parsed;
  const size_t power = with_unit && unit.size() == 1 ? std::string("KMG").find(unit[0]) : std::string::npos;
  if (power == std::string::npos) bad(name, value, expected);
  return parsed << (10 * (power + 1));
}

Order order(const std::string& name, const std::string& value) {
  if (value == "forward") return Order::forward;
  if (value == "backward") return Order::backward;
  if (value == "random") return Order::random;
  bad(name, value, "forward, backward or random");
}

void set_checks(Options& options, const std::string& name, const std::string& value) {
  options.races = options.uninitialised = value == "all";
  if (value == "all" || value == "none") return;
  std::istringstream list(value);
  for (std::string check; std::getline(list, check, ',');) {
    if (check == "races") options.races = true;
    else if (check == "uninitialised") options.uninitialised = true;
    else bad(name, value, "all, none, or a list of races, uninitialised");
  }
}

bool flag(const std::string& name, const std::string& value) {
  if (value == "0" || value == "1") return value == "1";
  bad(name, value, "0 or 1");
}

using Setter = std::function<void(Settings&, const std::string& name, const std::string& value)>;
const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> all = {
      {"GPU",
       [](Settings& s, auto& n, auto& v) {
         const int capability = int(number(n, v, "a compute capability such as 75"));
         try {
           gpu(capability);
         } catch (const Error& e) { bad(n, v, std::string("a compute capability such as 75 (") + e.what() + ")"); }
         s.compute_capability = capability;
       }},
      {"DEVICES", [](Settings& s, auto& n, auto& v) { s.devices = flag(n, v); }},
      {"MULTIPROCESSORS",
       [](Settings& s, auto& n, auto& v) {
         const uint64_t count = number(n, v, "a number from 1 to 1000");
         if (count < 1 || count > 1000) bad(n, v, "a number from 1 to 1000");
         s.multiprocessors = int(count);
       }},
      {"MEMORY", [](Settings& s, auto& n, auto& v) { s.memory_bytes = number(n, v, "bytes, such as 300M", true); }},
      {"ORDER", [](Settings& s, auto& n, auto& v) { s.options.warp_order = s.options.block_order = order(n, v); }},
      {"SEED", [](Settings& s, auto& n, auto& v) { s.options.seed = number(n, v, "a number"); }},
      {"ROUNDING",
       [](Settings& s, auto& n, auto& v) {
         if (v != "sequential" && v != "truncated") bad(n, v, "sequential or truncated");
         s.options.mma = v == "truncated" ? MmaRounding::truncated : MmaRounding::sequential;
       }},
      {"JITTER", [](Settings& s, auto& n, auto& v) { s.options.jitter = flag(n, v); }},
      {"THREADS",
       [](Settings& s, auto& n, auto& v) {
         s.options.threads = int(number(n, v, "a number of threads from 1"));
         if (s.options.threads < 1) bad(n, v, "a number of threads from 1");
       }},
      {"CHECKS",
       [](Settings& s, auto& n, auto& v) {
         set_checks(s.options, n, v);
         s.checks_asked = s.options.races || s.options.uninitialised;
       }},
      {"EXECUTE", [](Settings& s, auto& n, auto& v) { s.execute = flag(n, v); }},
      {"COUNTERS", [](Settings& s, auto&, auto& v) { s.counters_file = v; }},
      {"LAUNCHES", [](Settings& s, auto&, auto& v) { s.launches_file = v; }},
      {"SAMPLE",
       [](Settings& s, auto& n, auto& v) {
         const uint64_t every = number(n, v, "a number from 1 to 1000000");
         if (every < 1 || every > 1000000) bad(n, v, "a number from 1 to 1000000");
         s.options.sample = int(every);
       }},
      {"FAIL_ALLOCATION", [](Settings& s, auto& n, auto& v) { s.fail_allocation = long(number(n, v, "a number")); }},
      {"FAIL_LAUNCH", [](Settings& s, auto& n, auto& v) { s.fail_launch = long(number(n, v, "a number")); }},
  };
  return all;
}

}  // namespace

void Settings::set(const std::string& name, const std::string& value) {
  std::string upper;
  for (char c : name) upper += char(std::toupper(static_cast<unsigned char>(c)));
  const auto setter = setters().find(upper);
  if (setter == setters().end()) {
    std::string known;
    for (const auto& [option, unused] : setters()) known += (known.empty() ? "" : ", ") + option;
    throw std::invalid_argument("no option " + name + "; there are " + known);
  }
  Settings changed = *this;
  setter->second(changed, upper, value);
  if (changed.options.sample > 1 && changed.checks_asked)
    bad(upper, value, "PTXEMU_SAMPLE or PTXEMU_CHECKS, not both: what a sample of the blocks leaves in memory cannot be checked");
  *this = changed;
}

std::string Settings::read_environment() {
  options.seed = 1;
  std::string problem;
  for (const auto& [name, setter] : setters()) {
    const char* value = std::getenv(("PTXEMU_" + name).c_str());
    if (!value) continue;
    try {
      set(name, value);
    } catch (const std::invalid_argument& e) {
      if (problem.empty()) problem = e.what();
    }
  }
  return problem;
}

}  // namespace ptxemu
