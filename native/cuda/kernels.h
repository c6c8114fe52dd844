// The CUDA kernels: run() of each op, launched on one stream. Built once for each architecture (CMakeLists.txt).
// Every result is the same bits whatever the order of warps and blocks: no floating-point atomics, every sum in one order.
// T, the type of activations and weight matrices of a graph: __half, __nv_bfloat16 (sm_80) or float. Bias, γ, β, adapters: float.
#pragma once
#include <cuda_runtime_api.h>

#include <span>

#include "../graph/backend.h"
#include "../graph/node_tensors.h"

namespace lorafuse::cuda {

struct Gpu {
  int compute_capability;  // 75, 80, …
  int multiprocessors;
};

struct Context : NodeTensors {
  const Gpu& gpu;
  cudaStream_t stream;
  void* workspace;  // of workspace_bytes(); null where the op has none
};

// The file of an op's name specialises it; a missing kernel does not link. The smaller ops are in pointwise.cu, copies.cu and loss.cu.
template <class AnyOp> void run(const AnyOp& op, Context& c);
void run_gated(const MatMul& op, Context& c);  // lora.cu: run() of a MatMul with a gate

// Runs the kernel of a node's op: backend.cu.
void run_node(const Node& node, std::span<const Tensor> tensors, const Gpu& gpu, cudaStream_t stream, void* workspace);

// Ops with scratch memory: each specialises workspace_bytes() beside its kernel. A kernel of any other op gets none.
template <class AnyOp> constexpr bool kHasWorkspace =
    is_one_of<AnyOp, MatMul, LoraMatMul, LoraMatMulGrad, WeightGrad, Conv2d, ConvTranspose2d, ConvWeightGrad, AttentionGrad, GroupNorm,
              GroupNormGrad, SumPositions>;
template <class AnyOp> size_t workspace_bytes(const AnyOp& op, std::span<const Value> inputs, const Gpu& gpu);
size_t gated_workspace_bytes(const MatMul& op, std::span<const Value> inputs, const Gpu& gpu);  // lora.cu

}  // namespace lorafuse::cuda
