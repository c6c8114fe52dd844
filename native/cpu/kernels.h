// The CPU kernels: one overload of run() for each op. Compiled once per instruction set (CMakeLists.txt), so plain loops vectorise.
// Every result is the same bits whatever the number of threads: work is split where it never changes the order of a sum.
#pragma once
#include <span>

#include "../graph/backend.h"
#include "threads.h"

namespace lorafuse::cpu {

struct Context {
  Threads& threads;
  void* workspace;                  // as workspace_bytes() of the op asked for
  const Node& node;                 // inputs and outputs in the op's order
  std::span<const Tensor> tensors;  // of every value of the graph

  const Tensor& in(size_t i) const { return tensors[node.inputs[i]]; }
  const Tensor& last_in() const { return tensors[node.inputs.back()]; }
  const Tensor& out(size_t i) const { return tensors[node.outputs[i]]; }
};

void run(const MatMul& op, Context& c);           // matmul.cc
void run(const LoraMatMul& op, Context& c);       // matmul.cc
void run(const WeightGrad& op, Context& c);       // matmul.cc
void run(const Conv2d& op, Context& c);           // conv.cc
void run(const ConvTranspose2d& op, Context& c);  // conv.cc
void run(const Attention& op, Context& c);        // attention.cc
void run(const AttentionGrad& op, Context& c);    // attention.cc
void run(const GroupNorm& op, Context& c);        // norm.cc
void run(const GroupNormGrad& op, Context& c);    // norm.cc
void run(const LayerNorm& op, Context& c);        // norm.cc
void run(const LayerNormGrad& op, Context& c);    // norm.cc
void run(const Activation& op, Context& c);       // pointwise.cc, as all that follow
void run(const ActivationGrad& op, Context& c);
void run(const Geglu& op, Context& c);
void run(const GegluGrad& op, Context& c);
void run(const Add& op, Context& c);
void run(const AddPerSample& op, Context& c);
void run(const SumPositions& op, Context& c);
void run(const Concat& op, Context& c);
void run(const Slice& op, Context& c);
void run(const Embedding& op, Context& c);
void run(const Sinusoid& op, Context& c);
void run(const AddNoise& op, Context& c);
void run(const MseLoss& op, Context& c);
void run(const MseLossGrad& op, Context& c);

// Scratch an op needs for a run; most need none.
template <class AnyOp>
size_t workspace_bytes(const AnyOp&, std::span<const Shape>, int /*threads*/) {
  return 0;
}
size_t workspace_bytes(const MatMul& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const LoraMatMul& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const WeightGrad& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const Conv2d& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const ConvTranspose2d& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const Attention& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const AttentionGrad& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const GroupNorm& op, std::span<const Shape> inputs, int threads);
size_t workspace_bytes(const GroupNormGrad& op, std::span<const Shape> inputs, int threads);

}  // namespace lorafuse::cpu
