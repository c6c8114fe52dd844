// How a call of the CUDA API ends that cannot be done: an exception inside, a cudaError_t outside (runtime.h, call()).
#pragma once
#include <cuda_runtime_api.h>

#include <exception>
#include <string>
#include <utility>

#include "machine.h"

namespace ptxemu {

struct Failure : std::exception {
  Failure(cudaError_t code, std::string text) : code(code), text(std::move(text)) {}
  const char* what() const noexcept override { return text.c_str(); }
  cudaError_t code;
  std::string text;
};

inline void require(bool condition, cudaError_t code, const char* text) {
  if (!condition) throw Failure(code, text);
}

// Name and standard text of an error, as cudaGetErrorName and cudaGetErrorString say them.
const char* error_name(cudaError_t code);
const char* error_text(cudaError_t code);

// What a GPU would say of a kernel that did this.
cudaError_t code_of(ErrorKind kind);

}  // namespace ptxemu
