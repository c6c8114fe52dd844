// What a check must find, and its twin that is right. The body of the kernel can use
//   %r0 = tid, %r7 = ctaid, %r8 = words (512 bytes of shared memory), %r9 = the own word of it (128 threads),
//   %rd0 = the own word of `out`, 1024 bytes, %rd1 = `in`, 1000 bytes, both initialised, %rd2 = `fresh`, 1024 bytes that nobody wrote.
// The line that ends with "//!" is the one to be named.
#pragma once
#include "device.h"

namespace ptxemu::test {

struct Shape {
  uint32_t blocks = 1, threads = 128;
  size_t dynamic_shared = 0;
  int target = 80;
};

// thread -1: any, but one must be named; -2: none is named, as for a whole block.
struct Where {
  int thread = 0;
  uint32_t block = 0;
};

void finding(const std::string& name, ErrorKind kind, Where where, const std::string& body, Shape shape = {},
             std::vector<std::string> words = {}, const std::string& before = "");
void clean(const std::string& name, const std::string& body, Shape shape = {}, const std::string& before = "");

}  // namespace ptxemu::test
