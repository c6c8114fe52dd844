// emulator_tests [--ptx folder] [words …]: runs the cases whose name contains the words, or all (test/runner/runner.h).
// --ptx writes the text of every module there, so that ptxas can say whether the cases are legal PTX.
#include <cstdio>

#include "device.h"

int main(int count, char** arguments) {
  std::vector<std::string> rest(arguments + 1, arguments + count);
  if (rest.size() > 1 && rest[0] == "--ptx") {
    ptxemu::test::ptx_folder = rest[1];
    rest.erase(rest.begin(), rest.begin() + 2);
  }
  try {
    return test_runner::run_cases(arguments[0], test_runner::selection(rest));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "emulator_tests: %s\n", e.what());
    return 1;
  }
}
