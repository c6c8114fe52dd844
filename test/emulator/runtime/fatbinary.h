// What nvcc packs into an object file: for each architecture the machine code (cubin, an ELF file) or the text of the PTX.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace ptxemu {

struct Image {
  enum class Kind { ptx, cubin, other };
  Kind kind = Kind::other;
  int compute_capability = 0;  // 10 * major + minor
  bool compressed = false;
  const char* data = nullptr;
  size_t bytes = 0;
};

// wrapper: the __fatDeviceText that nvcc's code hands to __cudaRegisterFatBinary. Throws Failure for one that cannot be read.
std::vector<Image> read_fat_binary(const void* wrapper);

// The text of the highest PTX that a GPU of this compute capability runs; throws Failure(cudaErrorNoKernelImageForDevice).
std::string choose_ptx(const std::vector<Image>& images, int compute_capability);

// Registers per thread of each kernel, from the cubin that such a GPU would run; empty where there is none.
std::map<std::string, int> registers_of(const std::vector<Image>& images, int compute_capability);

}  // namespace ptxemu
