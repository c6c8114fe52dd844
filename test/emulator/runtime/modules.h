// The code of the program under test as nvcc's start-up code registers it, parsed at a kernel's first use.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"
#include "runtime/fatbinary.h"

namespace ptxemu {

struct FatBinary {
  const void* wrapper = nullptr;
  std::shared_ptr<Module> module;  // nullptr = not parsed
  std::map<std::string, int> registers;
};

struct Function {
  FatBinary* binary = nullptr;
  std::string name;
  const Kernel* kernel = nullptr;  // after Modules::resolve
  int registers = 0;               // 0 = not known: no machine code for the GPU in the fat binary
  size_t opted_in_shared = 0;      // cudaFuncAttributeMaxDynamicSharedMemorySize
};

struct Symbol {
  FatBinary* binary = nullptr;
  std::string name;
};

class Modules {
 public:
  FatBinary* add(const void* wrapper);
  void remove(FatBinary* binary, Memory* memory);
  void add_function(FatBinary* binary, const void* host, const char* name);
  void add_symbol(FatBinary* binary, const void* host, const char* name);

  // The kernel behind a host function; its module is parsed and loaded if it was not.
  Function& resolve(const void* host, Memory& memory, const Gpu& gpu);
  std::vector<const Function*> resolve_all(Memory& memory, const Gpu& gpu);
  const Variable& variable(const void* host, Memory& memory, const Gpu& gpu);
  bool registered(const void* host) const { return functions_.count(host) > 0; }

  void forget();  // the GPU is a new one: everything is parsed and loaded anew

 private:
  void load(FatBinary& binary, Memory& memory, const Gpu& gpu);

  std::vector<std::unique_ptr<FatBinary>> binaries_;
  std::map<const void*, std::unique_ptr<Function>> functions_;
  std::map<const void*, Symbol> symbols_;
};

}  // namespace ptxemu
