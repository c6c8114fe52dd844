// The catalogue of operations: read this first.
// An op is a struct of attributes with its name. It stands in five places; without one of them nothing compiles or links:
//   ops.h              the struct, in the list at the end of this file
//   shapes.cc          shapes of the outputs
//   gradients.cc       gradient, in ordinary ops, or its place among those that have none
//   cpu/*.cc           kernel
//   cuda/*.cu          kernel
// All activations are channels-last. On the CPU they are f32 and weights f32, f16 or bf16. On a GPU they are f32, f16 or bf16, one type in
// a graph, and so are weight matrices; vectors (bias, γ, β), adapters, statistics, losses and what the caller computes in f32 stay f32.
// dx is the gradient of x.
#pragma once
#include <cstdint>
#include <type_traits>
#include <variant>
#include <vector>

#include "../base/tensor.h"

namespace lorafuse {

// A GEGLU, a · gelu(b) of a ‖ b, or its gradient, computed by the kernel of the product before it. Made by fuse_geglu.cc.
enum class Gate {
  none,
  geglu,       // y [.., 2F] = a ‖ b stays, as the gradient reads it; one more output, the last: a · gelu(b) [.., F]
  geglu_grad,  // the product is dy [.., F] and is not stored; one more input: x [.., 2F]; output 0 is dx [.., 2F]. No bias.
};

// The end of a product's kernel: before y [.., N] is stored, bias [N] and residual [.., N] are added; a gate has no residual.
// These are inputs after the op's operands, in this order, as far as they are there; then the gate's x. See bias_input() below.
struct Epilogue {
  bool bias = false, residual = false;
  Gate gate = Gate::none;
};

// y [.., N] = Σ_i scale_i · x_i [.., K_i] · w_iᵀ, and the epilogue. w_i is [N, K_i], or [K_i, N] where transposed.
// inputs: x_0, w_0, x_1, w_1, …
// One pair is a linear layer; a second pair with K = rank adds a LoRA into the same accumulators (fuse.cc).
struct MatMul {
  static constexpr const char* name = "mat_mul";
  struct Pair {
    float scale = 1;
    bool transposed = false;
  };
  std::vector<Pair> pairs = {Pair{}};
  Epilogue epilogue = {};

  static constexpr size_t x(size_t i) { return 2 * i; }
  static constexpr size_t w(size_t i) { return 2 * i + 1; }
  size_t operands() const { return 2 * pairs.size(); }
};

// Linear layers of one x with their adapters: t_i [.., R_i] = x [.., K] · down_iᵀ, y_i [.., N_i] = x · w_iᵀ + scale_i · t_i · up_iᵀ.
// w_i [N_i, K], down_i [R_i, K], up_i [N_i, R_i]. An epilogue only where there is one y.
// inputs: x, w_0, down_0, up_0, w_1, …; outputs: y_0, y_1, …, then t_0, t_1, …  Made by fuse_lora.cc.
struct LoraMatMul {
  static constexpr const char* name = "lora_mat_mul";
  static constexpr bool transposed = false;
  std::vector<float> scales = {1};
  Epilogue epilogue = {};

  static constexpr size_t x(size_t) { return 0; }
  static constexpr size_t w(size_t i) { return 3 * i + 1; }
  static constexpr size_t reduce(size_t i) { return 3 * i + 2; }  // down, the matrix that makes t
  static constexpr size_t expand(size_t i) { return 3 * i + 3; }  // up, the matrix that multiplies t
  size_t operands() const { return 1 + 3 * scales.size(); }
  size_t products() const { return scales.size(); }  // how many y
};

// Gradient of the input of such layers, summed: t_i [.., R_i] = scale_i · dy_i [.., N_i] · up_i, dx [.., K] = Σ_i dy_i · w_i + t_i ·
// down_i, and the epilogue. inputs: dy_0, w_0, up_0, down_0, dy_1, …; outputs: dx, t_0, t_1, …  Made by fuse_lora.cc.
struct LoraMatMulGrad {
  static constexpr const char* name = "lora_mat_mul_grad";
  static constexpr bool transposed = true;  // of the product above, matrices lie the other way round
  std::vector<float> scales = {1};
  Epilogue epilogue = {};

  static constexpr size_t x(size_t i) { return 4 * i; }  // dy
  static constexpr size_t w(size_t i) { return 4 * i + 1; }
  static constexpr size_t reduce(size_t i) { return 4 * i + 2; }  // up
  static constexpr size_t expand(size_t i) { return 4 * i + 3; }  // down
  size_t operands() const { return 4 * scales.size(); }
  static constexpr size_t products() { return 1; }
};

// gradients of trainable matrices, added in place: g_i [N_i, K_i] += scale_i · dy_iᵀ [N_i, M_i] · x_i [M_i, K_i].
// inputs: dy_0, x_0, dy_1, x_1, …; outputs: g_0, g_1, …, all different.  More than one is made by fuse_weight_grads.cc.
struct WeightGrad {
  static constexpr const char* name = "weight_grad";
  static constexpr bool accumulates = true;
  std::vector<float> scales = {1};
};

// y [B, H', W', N] = x [B, H, W, C] ∗ w [kernel·kernel, N, C], and bias and residual.  inputs: x, w
// `before`/`after`: rows and columns of zeros added at the top and left / bottom and right.
struct Conv2d {
  static constexpr const char* name = "conv2d";
  int kernel = 3, stride = 1, before = 1, after = 1;
  Epilogue epilogue = {};

  static constexpr size_t operands() { return 2; }
};

// y [B, height, width, C] = x [B, H, W, N] ∗ᵀ w [kernel·kernel, N, C], and bias and residual: each pixel of x is added to those that the
// convolution above reads for it. The gradient of its input, and an upsampling convolution (layers.cc).  inputs: x, w
struct ConvTranspose2d {
  static constexpr const char* name = "conv_transpose2d";
  int kernel = 3, stride = 1, before = 1, after = 1;
  int64_t height = 0, width = 0;
  Epilogue epilogue = {};

  static constexpr size_t operands() { return 2; }
};

// gradient of a trainable kernel, added in place: g [kernel·kernel, N, C] += Σ over pixels of y: x [under each tap, C] · y [pixel, N].
// inputs: y [B, H', W', N], x [B, H, W, C]. Of Conv2d, y stands for dy; of ConvTranspose2d, x stands for dy, and y for x.
struct ConvWeightGrad {
  static constexpr const char* name = "conv_weight_grad";
  static constexpr bool accumulates = true;
  int kernel = 3, stride = 1, before = 1, after = 1;
};

// x [B, H, W, C] to y [B, 2H, 2W, C], each pixel four times; and its gradient: dx is the sum of the four dy.
struct Upsample { static constexpr const char* name = "upsample"; };
struct UpsampleGrad { static constexpr const char* name = "upsample_grad"; };

// softmax(q·kᵀ / √d) · v per head, d = channels / heads.  inputs: q [B, T, C], k [B, S, C], v [B, S, C];
// outputs: o [B, T, C], log_sum_exp [B, heads, T]. T may be H, W.  causal: token t sees tokens 0…t.
struct Attention {
  static constexpr const char* name = "attention";
  int heads = 1;
  bool causal = false;
};
// inputs: q, k, v, o, log_sum_exp, do; outputs: dq, dk, dv (FlashAttention-2, arXiv:2307.08691, algorithm 2)
struct AttentionGrad {
  static constexpr const char* name = "attention_grad";
  int heads = 1;
  bool causal = false;
};

// y = act((x − mean) · rstd · γ + β) over groups of C/groups channels and all of H, W; act is SiLU or nothing.
// inputs: x [B, H, W, C], gamma [C], beta [C]; outputs: y, statistics [B, groups, 2] = mean, 1/√(var + eps).
struct GroupNorm {
  static constexpr const char* name = "group_norm";
  int groups = 32;
  float eps = 1e-5f;
  bool silu = false;
};
// inputs: x, gamma, beta, statistics, dy, residual?; output: dx (+ residual)
struct GroupNormGrad {
  static constexpr const char* name = "group_norm_grad";
  int groups = 32;
  bool silu = false, residual = false;
};

// inputs: x [.., C], gamma [C], beta [C]; outputs: y, statistics [rows, 2] = mean, 1/√(var + eps)
struct LayerNorm {
  static constexpr const char* name = "layer_norm";
  float eps = 1e-5f;
};
// inputs: x, gamma, statistics, dy, residual?; output: dx (+ residual)
struct LayerNormGrad {
  static constexpr const char* name = "layer_norm_grad";
  bool residual = false;
};

enum class Function { silu, gelu, quick_gelu };  // x·σ(x); x·Φ(x) (exact, erf); x·σ(1.702x)

// inputs: x; output: f(x)
struct Activation {
  static constexpr const char* name = "activation";
  Function function;
};
// inputs: x, dy; output: dx
struct ActivationGrad {
  static constexpr const char* name = "activation_grad";
  Function function;
};

// inputs: x [.., 2F] = a ‖ b; output: a · gelu(b) [.., F]
struct Geglu { static constexpr const char* name = "geglu"; };
// inputs: x, dy [.., F]; output: dx [.., 2F]
struct GegluGrad { static constexpr const char* name = "geglu_grad"; };

// inputs: a, b of one shape
struct Add { static constexpr const char* name = "add"; };

// inputs: x [B, .., C], e [B, C]; output: x + e, the same e at every position
struct AddPerSample { static constexpr const char* name = "add_per_sample"; };
// inputs: x [B, .., C]; output: sum over the positions [B, C]
struct SumPositions { static constexpr const char* name = "sum_positions"; };

// inputs: a [.., C1], b [.., C2]; output [.., C1 + C2]
struct Concat { static constexpr const char* name = "concat"; };
// inputs: x [.., C]; output x[.., begin:end]
struct Slice {
  static constexpr const char* name = "slice";
  int64_t begin = 0, end = 0;
};

// inputs: ids [B, T] i32, tokens [V, C], positions [T', C]; output [B, T, C] = tokens[id] + positions[t]
struct Embedding { static constexpr const char* name = "embedding"; };

// rows of x, by their index.  inputs: x [.., C], rows [..] i32, each below x's number of rows; output [rows.., C]
struct Gather { static constexpr const char* name = "gather"; };
// dx, for x of this shape: the sum of the dy that each row went to, first to last.  inputs: rows, dy [rows.., C]
struct GatherGrad {
  static constexpr const char* name = "gather_grad";
  Shape shape;
};

// inputs: t [B] or [B, n]; output [B, n·dim]: for each t, cos and sin of t · 10000^(−i / (dim/2 − shift))
// (diffusers:models/embeddings.py, get_timestep_embedding)
struct Sinusoid {
  static constexpr const char* name = "sinusoid";
  int64_t dim = 320;
  bool cos_first = true;
  float shift = 0;
};

// c_0 · x_0 + c_1 · ε, with coefficients c of each sample: a noisy x_t, or the target of a loss. Computed in f32, and f32 where asked.
// inputs: x_0 [B, ..], noise, coefficients [B, 2]
struct AddNoise {
  static constexpr const char* name = "add_noise";
  bool f32 = false;
};

// inputs: prediction [B, ..], target, weights [B]; output: mean squared error of each sample [B].
// gradients() differentiates Σ_b weights_b · output_b.
struct MseLoss { static constexpr const char* name = "mse_loss"; };
// inputs: prediction, target, weights; output: d prediction
struct MseLossGrad { static constexpr const char* name = "mse_loss_grad"; };

// The operations. A test may add one of its own: test/extension.
template <class... More> using Ops =
    std::variant<MatMul, LoraMatMul, LoraMatMulGrad, WeightGrad, Conv2d, ConvTranspose2d, ConvWeightGrad, Upsample, UpsampleGrad, Attention,
                 AttentionGrad, GroupNorm, GroupNormGrad, LayerNorm, LayerNormGrad, Activation, ActivationGrad, Geglu, GegluGrad, Add,
                 AddPerSample, SumPositions, Concat, Slice, Embedding, Gather, GatherGrad, Sinusoid, AddNoise, MseLoss, MseLossGrad,
                 More...>;
#ifdef LORAFUSE_EXTENSION
}  // namespace lorafuse
#include LORAFUSE_EXTENSION
namespace lorafuse {
using Op = Ops<Extension>;
#else
using Op = Ops<>;
#endif

inline const char* name_of(const Op& op) {
  return std::visit([](const auto& o) { return o.name; }, op);
}

template <class AnyOp, class... Of> constexpr bool is_one_of = (std::is_same_v<AnyOp, Of> || ...);

// Positions of the inputs that an op has only where its attributes say so.
constexpr size_t kAbsent = SIZE_MAX;
template <class Product> size_t bias_input(const Product& op) { return op.epilogue.bias ? op.operands() : kAbsent; }
template <class Product> size_t residual_input(const Product& op) {
  return op.epilogue.residual ? op.operands() + op.epilogue.bias : kAbsent;
}
template <class Product> size_t gate_input(const Product& op) {
  return op.epilogue.gate == Gate::geglu_grad ? op.operands() + op.epilogue.bias + op.epilogue.residual : kAbsent;
}
inline size_t residual_input(const GroupNormGrad& op) { return op.residual ? 5 : kAbsent; }
inline size_t residual_input(const LayerNormGrad& op) { return op.residual ? 4 : kAbsent; }

}  // namespace lorafuse
