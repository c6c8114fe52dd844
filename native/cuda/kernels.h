// The CUDA kernels: one overload of run() for each op, launched on one stream. Built once for each architecture (CMakeLists.txt).
// Every result is the same bits whatever the order of warps and blocks: no floating-point atomics, every sum in one order.
// T, the type of activations and weight matrices of a graph: __half, __nv_bfloat16 (sm_80) or float. Bias, γ, β, adapters: float.
#pragma once
#include <cuda_runtime_api.h>

#include <span>

#include "../graph/backend.h"

namespace lorafuse::cuda {

struct Gpu {
  int compute_capability;  // 75, 80, …
  int multiprocessors;
  size_t shared_bytes;  // of a block, opted in to
};

struct Context {
  const Gpu& gpu;
  cudaStream_t stream;
  void* workspace;                  // as workspace_bytes() of the op asked for
  const Node& node;                 // inputs and outputs in the op's order
  std::span<const Tensor> tensors;  // of every value of the graph

  const Tensor& in(size_t i) const { return tensors[node.inputs[i]]; }
  const Tensor& last_in() const { return tensors[node.inputs.back()]; }
  const Tensor& out(size_t i) const { return tensors[node.outputs[i]]; }
};

void run(const MatMul& op, Context& c);           // matmul.cu
void run(const LoraMatMul& op, Context& c);       // lora.cu
void run_gated(const MatMul& op, Context& c);     // lora.cu; run() of a MatMul that has a gate
void run(const WeightGrad& op, Context& c);       // weight_grad.cu
void run(const Conv2d& op, Context& c);           // conv.cu
void run(const ConvTranspose2d& op, Context& c);  // conv.cu
void run(const Attention& op, Context& c);        // attention.cu
void run(const AttentionGrad& op, Context& c);    // attention.cu
void run(const GroupNorm& op, Context& c);        // group_norm.cu
void run(const GroupNormGrad& op, Context& c);    // group_norm.cu
void run(const LayerNorm& op, Context& c);        // layer_norm.cu
void run(const LayerNormGrad& op, Context& c);    // layer_norm.cu
void run(const Activation& op, Context& c);       // pointwise.cu
void run(const ActivationGrad& op, Context& c);   // pointwise.cu
void run(const Geglu& op, Context& c);            // pointwise.cu
void run(const GegluGrad& op, Context& c);        // pointwise.cu
void run(const Add& op, Context& c);              // pointwise.cu
void run(const AddPerSample& op, Context& c);     // pointwise.cu
void run(const SumPositions& op, Context& c);     // pointwise.cu
void run(const Concat& op, Context& c);           // copies.cu
void run(const Slice& op, Context& c);            // copies.cu
void run(const Embedding& op, Context& c);        // copies.cu; NaN where an id is no token's
void run(const Sinusoid& op, Context& c);         // loss.cu
void run(const AddNoise& op, Context& c);         // loss.cu
void run(const MseLoss& op, Context& c);          // loss.cu
void run(const MseLossGrad& op, Context& c);      // loss.cu

// Scratch an op needs for a run; most need none.
template <class AnyOp>
size_t workspace_bytes(const AnyOp&, std::span<const Value>, const Gpu&) {
  return 0;
}
size_t workspace_bytes(const MatMul& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const LoraMatMul& op, std::span<const Value> inputs, const Gpu& gpu);
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const WeightGrad& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const Conv2d& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const ConvTranspose2d& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const Attention& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const AttentionGrad& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const GroupNorm& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const GroupNormGrad& op, std::span<const Value> inputs, const Gpu& gpu);
size_t workspace_bytes(const SumPositions& op, std::span<const Value> inputs, const Gpu& gpu);

}  // namespace lorafuse::cuda
