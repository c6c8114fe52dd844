#include "device.cuh"
#include "kernels.h"

namespace lorafuse::cuda {

void run(const Activation&, Context&) { throw Error("NOT_IMPLEMENTED", "Activation"); }
void run(const ActivationGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "ActivationGrad"); }
void run(const Geglu&, Context&) { throw Error("NOT_IMPLEMENTED", "Geglu"); }
void run(const GegluGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "GegluGrad"); }
void run(const Add&, Context&) { throw Error("NOT_IMPLEMENTED", "Add"); }
void run(const AddPerSample&, Context&) { throw Error("NOT_IMPLEMENTED", "AddPerSample"); }
void run(const SumPositions&, Context&) { throw Error("NOT_IMPLEMENTED", "SumPositions"); }
size_t workspace_bytes(const SumPositions&, std::span<const Value>, const Card&) { return 0; }
void run(const Concat&, Context&) { throw Error("NOT_IMPLEMENTED", "Concat"); }
void run(const Slice&, Context&) { throw Error("NOT_IMPLEMENTED", "Slice"); }
void run(const Upsample&, Context&) { throw Error("NOT_IMPLEMENTED", "Upsample"); }
void run(const UpsampleGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "UpsampleGrad"); }
void run(const Embedding&, Context&) { throw Error("NOT_IMPLEMENTED", "Embedding"); }
void run(const Sinusoid&, Context&) { throw Error("NOT_IMPLEMENTED", "Sinusoid"); }
void run(const AddNoise&, Context&) { throw Error("NOT_IMPLEMENTED", "AddNoise"); }
void run(const MseLoss&, Context&) { throw Error("NOT_IMPLEMENTED", "MseLoss"); }
size_t workspace_bytes(const MseLoss&, std::span<const Value>, const Card&) { return 0; }
void run(const MseLossGrad&, Context&) { throw Error("NOT_IMPLEMENTED", "MseLossGrad"); }

}  // namespace lorafuse::cuda
