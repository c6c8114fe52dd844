#include "test.h"

namespace lorafuse::test {
namespace {

std::string describe(const std::exception& e) {
  const auto* error = dynamic_cast<const Error*>(&e);
  return error ? "unexpected " + error->code() + ": " + e.what() : test_runner::describe(e);
}

}  // namespace

std::string expect_error(const std::string& code, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    if (e.code() != code) throw Failure("expected " + code + " but received " + e.code() + ": " + e.what());
    return e.what();
  }
  throw Failure("expected " + code + " but nothing was thrown");
}

int run_cases(const std::string& program, const std::vector<std::string>& arguments) {
  return test_runner::run_cases(program, test_runner::selection(arguments), describe);
}

}  // namespace lorafuse::test
