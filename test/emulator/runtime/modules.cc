#include "runtime/modules.h"

#include "runtime/failure.h"

namespace ptxemu {

FatBinary* Modules::add(const void* wrapper) {
  binaries_.push_back(std::make_unique<FatBinary>());
  binaries_.back()->wrapper = wrapper;
  return binaries_.back().get();
}

void Modules::remove(FatBinary* binary, Memory* memory) {
  std::erase_if(functions_, [&](const auto& f) { return f.second->binary == binary; });
  std::erase_if(symbols_, [&](const auto& s) { return s.second.binary == binary; });
  if (binary->module && memory) binary->module->unload(*memory);
  std::erase_if(binaries_, [&](const auto& b) { return b.get() == binary; });
}

void Modules::add_function(FatBinary* binary, const void* host, const char* name) {
  auto function = std::make_unique<Function>();
  function->binary = binary;
  function->name = name;
  functions_[host] = std::move(function);
}

void Modules::add_symbol(FatBinary* binary, const void* host, const char* name) { symbols_[host] = {binary, name}; }

void Modules::load(FatBinary& binary, Memory& memory, const Gpu& gpu) {
  if (binary.module) return;
  const std::vector<Image> images = read_fat_binary(binary.wrapper);
  std::shared_ptr<Module> module = Module::parse(choose_ptx(images, gpu.compute_capability), "fat binary");
  try {
    module->load(memory);
  } catch (const Error& e) { throw Failure(cudaErrorMemoryAllocation, e.what()); }
  binary.registers = registers_of(images, gpu.compute_capability);
  binary.module = std::move(module);
}

Function& Modules::resolve(const void* host, Memory& memory, const Gpu& gpu) {
  const auto found = functions_.find(host);
  require(found != functions_.end(), cudaErrorInvalidDeviceFunction, "no kernel is registered for this function");
  Function& function = *found->second;
  if (!function.kernel) {
    load(*function.binary, memory, gpu);
    function.kernel = function.binary->module->kernel(function.name);
    if (!function.kernel) throw Failure(cudaErrorInvalidDeviceFunction, "the PTX has no kernel " + function.name);
    const auto registers = function.binary->registers.find(function.name);
    if (registers != function.binary->registers.end()) function.registers = registers->second;
  }
  return function;
}

std::vector<const Function*> Modules::resolve_all(Memory& memory, const Gpu& gpu) {
  std::vector<const Function*> all;
  for (const auto& [host, function] : functions_) all.push_back(&resolve(host, memory, gpu));
  return all;
}

const Variable& Modules::variable(const void* host, Memory& memory, const Gpu& gpu) {
  const auto found = symbols_.find(host);
  require(found != symbols_.end(), cudaErrorInvalidSymbol, "no device variable is registered for this symbol");
  load(*found->second.binary, memory, gpu);
  const Variable* variable = found->second.binary->module->variable(found->second.name);
  if (!variable) throw Failure(cudaErrorInvalidSymbol, "the PTX has no variable " + found->second.name);
  return *variable;
}

void Modules::forget() {
  for (const auto& binary : binaries_) {
    binary->module.reset();
    binary->registers.clear();
  }
  for (const auto& [host, function] : functions_) {
    function->kernel = nullptr;
    function->registers = 0;
    function->opted_in_shared = 0;
  }
}

}  // namespace ptxemu
