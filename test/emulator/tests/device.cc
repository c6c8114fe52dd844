#include "device.h"

#include <fstream>

namespace ptxemu::test {

std::string ptx_folder;

namespace {
std::string with_header(const std::string& body, int target) {
  const std::string ptx = text(".version 9.0\n.target sm_", target, "\n.address_size 64\n", body);
  static int written = 0;
  if (!ptx_folder.empty()) std::ofstream(text(ptx_folder, "/", target, "-", written++, ".ptx")) << ptx;
  return ptx;
}
}  // namespace

Device::Device(const std::string& body, int target)
    : ptx(with_header(body, target)), gpu(ptxemu::gpu(target)), module(Module::parse(ptx, "test")) {
  module->load(memory);
}

Launch Device::prepare(const std::string& kernel, Dim3 grid, Dim3 block, size_t dynamic_shared,
                       const std::vector<std::span<const std::byte>>& arguments) const {
  const Kernel* found = module->kernel(kernel);
  EXPECT(found, "no kernel ", kernel);
  EXPECT(found->parameters.size() == arguments.size(), kernel, " takes ", found->parameters.size(), " parameters, received ",
         arguments.size());
  Launch launch{found, grid, block, dynamic_shared, std::vector<std::byte>(found->parameter_bytes)};
  for (size_t i = 0; i < arguments.size(); i++) {
    const Parameter& p = found->parameters[i];
    EXPECT(p.bytes == arguments[i].size(), kernel, ": ", p.name, " has ", p.bytes, " bytes, received ", arguments[i].size());
    std::memcpy(launch.parameters.data() + p.offset, arguments[i].data(), p.bytes);
  }
  return launch;
}

Error expect_error(ErrorKind kind, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    if (e.kind != kind) throw Failure(text("expected ", name(kind), " but received ", name(e.kind), ": ", e.what()));
    return e;
  }
  throw Failure(text("expected ", name(kind), " but nothing was thrown"));
}

}  // namespace ptxemu::test
