// native_tests [part of a name]
#include "test.h"

int main(int count, char** arguments) { return lorafuse::test::run_cases(arguments[0], count > 1 ? arguments[1] : ""); }
