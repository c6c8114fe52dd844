// A GPU with one module: what every case needs to run a kernel.
//   Device device(R"(.visible .entry k(.param .u64 out) { … })");
//   const uint64_t out = device.upload(std::vector<int>(32));
//   device.launch("k", {1}, {32}, out);
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "../machine.h"
#include "test.h"

namespace ptxemu::test {

// main writes every module that a case parses into this folder, for ptxas to check; empty = nowhere.
extern std::string ptx_folder;

class Device {
 public:
  // `body` follows .version, .target and .address_size.
  explicit Device(const std::string& body, int target = 90);

  const std::string ptx;
  Options options;
  Counters counters;
  Gpu gpu;
  Memory memory{size_t(1) << 24};
  std::unique_ptr<Module> module;

  uint64_t allocate(size_t bytes) { return memory.allocate(bytes); }
  template <class T> uint64_t upload(const std::vector<T>& values) {
    const uint64_t address = memory.allocate(values.size() * sizeof(T));
    memory.write(address, values.data(), values.size() * sizeof(T));
    return address;
  }
  template <class T> std::vector<T> download(uint64_t address, size_t count) const {
    std::vector<T> values(count);
    memory.read(values.data(), address, count * sizeof(T));
    return values;
  }

  template <class... A> void launch(const std::string& kernel, Dim3 grid, Dim3 block, const A&... arguments) {
    launch_shared(kernel, grid, block, 0, arguments...);
  }
  template <class... A> void launch_shared(const std::string& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared, const A&... arguments) {
    run(prepare(kernel, grid, block, dynamic_shared, {std::as_bytes(std::span(&arguments, 1))...}), memory, gpu, options, counters);
  }
  Launch prepare(const std::string& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                 const std::vector<std::span<const std::byte>>& arguments) const;
};

// A kernel with one pointer to `count` results: runs it over one block and returns them.
template <class T> std::vector<T> results_of(Device& device, Dim3 block, size_t count, const std::string& kernel = "k") {
  const uint64_t out = device.upload(std::vector<T>(count));
  device.launch(kernel, {}, block, out);
  return device.download<T>(out, count);
}

// Where `out` was expected element by element; names the first that differs.
template <class T, class F> void expect_each(const std::vector<T>& out, F&& expected, const std::string& what = "element") {
  for (size_t i = 0; i < out.size(); i++) {
    const T want = expected(i);
    EXPECT(std::memcmp(&out[i], &want, sizeof want) == 0, what, " ", i, ": expected ", +want, " but received ", +out[i]);
  }
}

// PTX that leaves the global address of `out` (the first parameter) + 4·%tid.x in %rd0 and %tid.x in %r0.
inline constexpr char own_word[] =
    "  .reg .pred %p<16>;\n  .reg .b16 %h<32>;\n  .reg .b32 %r<64>;\n  .reg .b64 %rd<32>;\n"
    "  ld.param.u64 %rd0, [out];\n  cvta.to.global.u64 %rd0, %rd0;\n  mov.u32 %r0, %tid.x;\n  mad.wide.u32 %rd0, %r0, 4, %rd0;\n";

// Runs `body`, which must throw this kind, and returns the error.
Error expect_error(ErrorKind kind, const std::function<void()>& body);

}  // namespace ptxemu::test
