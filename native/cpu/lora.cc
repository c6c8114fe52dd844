// Linear layers with their adapters, forward and backward: on the CPU, plain products one after the other.
#include "lowered.h"

namespace lorafuse::cpu {

template <> void run(const LoraMatMul& op, Context& c) { run_lowered(op, c); }
template <> void run(const LoraMatMulGrad& op, Context& c) { run_lowered(op, c); }

template <> size_t workspace_bytes(const LoraMatMul& op, std::span<const Shape> inputs, int threads) {
  return lowered_workspace_bytes(op, inputs, threads);
}
template <> size_t workspace_bytes(const LoraMatMulGrad& op, std::span<const Shape> inputs, int threads) {
  return lowered_workspace_bytes(op, inputs, threads);
}

}  // namespace lorafuse::cpu
