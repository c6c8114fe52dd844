// An op that only this folder knows: what a new op takes is here, and graph/ops.h includes this file (LORAFUSE_EXTENSION).
//   multiply.cc      shapes and gradient
//   multiply_cpu.cc  CPU kernel
//   multiply.cu      CUDA kernel, not built by the tests
#pragma once

namespace lorafuse {

// inputs: a, b of one shape; output: a · b, element by element
struct Multiply { static constexpr const char* name = "multiply"; };
using Extension = Multiply;

namespace test {

template <class T> struct Operands;

// For reference.cc.
template <class T> void run(const Multiply&, const Operands<T>& o) {
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[i] = o.in(0)[i] * o.in(1)[i];
}

}  // namespace test
}  // namespace lorafuse
