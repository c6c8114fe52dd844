// The test runner (test/runner), by the names that the emulator's tests use.
#pragma once
#include "../../runner/runner.h"

namespace ptxemu::test {

using test_runner::Failure;
using test_runner::test_case;
using test_runner::text;

}  // namespace ptxemu::test
