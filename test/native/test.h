// The test runner (test/runner) and what tests of the core add to it: errors have codes.
#pragma once
#include "../runner/runner.h"
#include "base/check.h"

namespace lorafuse::test {

using test_runner::Failure;
using test_runner::note;
using test_runner::test_case;

// Runs `body`, which must throw an Error with this code, and returns its message.
std::string expect_error(const std::string& code, const std::function<void()>& body);

// run_cases, with the code of an Error in what is printed.
int run_cases(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace lorafuse::test
