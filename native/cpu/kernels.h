// The CPU kernels: run() of each op. Compiled once per instruction set (CMakeLists.txt), so plain loops vectorise.
// Every result is the same bits whatever the number of threads: work is split where it never changes the order of a sum.
#pragma once
#include <span>

#include "../graph/backend.h"
#include "../graph/node_tensors.h"
#include "threads.h"

namespace lorafuse::cpu {

struct Context : NodeTensors {
  Threads& threads;
  void* workspace;  // of workspace_bytes(); null where the op has none
};

// The file of an op's name specialises it; a missing kernel does not link.
template <class AnyOp> void run(const AnyOp& op, Context& c);

// Runs the kernel of a node's op: backend.cc.
void run_node(const Node& node, std::span<const Tensor> tensors, Threads& threads, void* workspace);

// Ops with scratch memory. That of products is gemm()'s; the others specialise workspace_bytes() beside their kernel.
template <class AnyOp> constexpr bool kIsProduct =
    is_one_of<AnyOp, MatMul, LoraMatMul, LoraMatMulGrad, WeightGrad, Conv2d, ConvTranspose2d, ConvWeightGrad>;
template <class AnyOp> constexpr bool kHasWorkspace =
    kIsProduct<AnyOp> || is_one_of<AnyOp, Attention, AttentionGrad, GroupNorm, GroupNormGrad>;
template <class AnyOp> size_t workspace_bytes(const AnyOp& op, std::span<const Shape> inputs, int threads);

}  // namespace lorafuse::cpu
