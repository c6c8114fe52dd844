// The functions that nvcc leaves for the driver to define: printf and assert. Their operands are offsets of arguments in local memory.
#pragma once
#include "../warp/warp.h"

namespace ptxemu {

void call_vprintf(Warp& w, const Instruction& in, uint32_t mask);
void call_assertfail(Warp& w, const Instruction& in, uint32_t mask);

}  // namespace ptxemu
