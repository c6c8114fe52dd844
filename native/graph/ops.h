// The catalogue of operations: read this first.
// An op is a struct of attributes. What it computes is defined by overloads on that struct:
//   shapes.cc     Shape rule           output_shapes(op, input shapes)
//   gradients.cc  gradient rule        emits ordinary ops
//   cpu/*.cc      kernel               run(op, ...): a missing one is a compile error
//   cuda/*.cu     kernel               the same overloads
// All activations are channels-last. On the CPU they are f32 and weights f32, f16 or bf16. On a GPU they are f32, f16 or bf16, one type in
// a graph, and so are weight matrices; vectors (bias, γ, β), adapters, statistics, losses and what the caller computes in f32 stay f32.
// dx is the gradient of x.
#pragma once
#include <cstdint>
#include <variant>
#include <vector>

namespace lorafuse {

// A GEGLU, a · gelu(b) of a ‖ b, or its gradient, as the end of the product before it: one y, no residual. Made by fuse_geglu.cc.
enum class Gate {
  none,
  geglu,       // y [.., 2F] = a ‖ b stays, as the gradient reads it; one more output, the last: a · gelu(b) [.., F]
  geglu_grad,  // the product is dy [.., F] and not stored; one more input, the last: x [.., 2F]; output 0 is dx [.., 2F]. No bias.
};

// y [.., N] = Σ_i scale_i · x_i [.., K_i] · w_iᵀ (+ bias [N]) (+ residual [.., N]).
// inputs: x_0, w_0, x_1, w_1, …, then bias, then residual where present. w_i is [N, K_i], or [K_i, N] where transposed.
// One pair is a linear layer; a second pair with K = rank adds a LoRA into the same accumulators (fuse.cc).
struct MatMul {
  struct Pair {
    float scale = 1;
    bool transposed = false;
  };
  std::vector<Pair> pairs = {Pair{}};
  bool bias = false, residual = false;
  Gate gate = Gate::none;
};

// Linear layers with their adapters: t_i [.., R_i] = x_i · down_iᵀ and y_i [.., N_i] = x_i · w_iᵀ + scale_i · t_i · up_iᵀ, w_i [N, K],
// down_i [R, K], up_i [N, R]. Where transposed, for the gradient of x, they are [K, N], [K, R], [R, N] and t_i has the scale in it.
// inputs: x_0, w_0, down_0, up_0, x_1, …, then bias [N], then residual [.., N], these and a gate only where there is one y;
// outputs: y_0, y_1, … or their sum, then t_0, t_1, ….  Made by fuse.cc.
struct LoraMatMul {
  struct Term {
    float scale = 1;
    bool transposed = false;
  };
  std::vector<Term> terms = {Term{}};
  bool sum = false;
  bool bias = false, residual = false;
  Gate gate = Gate::none;

  size_t products() const { return sum ? 1 : terms.size(); }  // how many y
};

// gradients of trainable matrices, added in place: g_i [N_i, K_i] += scale_i · dy_iᵀ [N_i, M_i] · x_i [M_i, K_i].
// inputs: dy_0, x_0, dy_1, x_1, …; outputs: g_0, g_1, …, each another one.  More than one is made by fuse_weight_grads.cc.
struct WeightGrad { std::vector<float> scales = {1}; };

// y [B, H', W', N] = x [B, H, W, C] ∗ w [kernel·kernel, N, C] (+ bias [N]) (+ residual).  inputs: x, w, bias?, residual?
// `before`/`after`: rows and columns of zeros added at the top and left / bottom and right.
struct Conv2d {
  int kernel = 3, stride = 1, before = 1, after = 1;
  bool bias = false, residual = false;
};

// y [B, height, width, C] = x [B, H, W, N] ∗ᵀ w [kernel·kernel, N, C] (+ bias [C]) (+ residual): each pixel of x is added to those that the
// convolution above reads for it. The gradient of its input, and an upsampling convolution (layers.cc).  inputs: x, w, bias?, residual?
struct ConvTranspose2d {
  int kernel = 3, stride = 1, before = 1, after = 1;
  int64_t height = 0, width = 0;
  bool bias = false, residual = false;
};

// softmax(q·kᵀ / √d) · v per head, d = channels / heads.  inputs: q [B, T, C], k [B, S, C], v [B, S, C];
// outputs: o [B, T, C], log_sum_exp [B, heads, T]. T may be H, W.  causal: token t sees tokens 0…t.
struct Attention {
  int heads = 1;
  bool causal = false;
};
// inputs: q, k, v, o, log_sum_exp, do; outputs: dq, dk, dv (FlashAttention-2, arXiv:2307.08691, algorithm 2). Not causal.
struct AttentionGrad { int heads = 1; };

// y = act((x − mean) · rstd · γ + β) over groups of C/groups channels and all of H, W; act is SiLU or nothing.
// inputs: x [B, H, W, C], gamma [C], beta [C]; outputs: y, statistics [B, groups, 2] = mean, 1/√(var + eps).
struct GroupNorm {
  int groups = 32;
  float eps = 1e-5f;
  bool silu = false;
};
// inputs: x, gamma, beta, statistics, dy, residual?; output: dx (+ residual)
struct GroupNormGrad {
  int groups = 32;
  bool silu = false, residual = false;
};

// inputs: x [.., C], gamma [C], beta [C]; outputs: y, statistics [rows, 2] = mean, 1/√(var + eps)
struct LayerNorm { float eps = 1e-5f; };
// inputs: x, gamma, statistics, dy, residual?; output: dx (+ residual)
struct LayerNormGrad { bool residual = false; };

enum class Function { silu, gelu, quick_gelu };  // x·σ(x); x·Φ(x) (exact, erf); x·σ(1.702x)

// inputs: x; output: f(x)
struct Activation { Function function; };
// inputs: x, dy; output: dx
struct ActivationGrad { Function function; };

// inputs: x [.., 2F] = a ‖ b; output: a · gelu(b) [.., F]
struct Geglu {};
// inputs: x, dy [.., F]; output: dx [.., 2F]
struct GegluGrad {};

// inputs: a, b of one shape
struct Add {};

// inputs: x [B, .., C], e [B, C]; output: x + e, the same e at every position
struct AddPerSample {};
// inputs: x [B, .., C]; output: sum over the positions [B, C]
struct SumPositions {};

// inputs: a [.., C1], b [.., C2]; output [.., C1 + C2]
struct Concat {};
// inputs: x [.., C]; output x[.., begin:end]
struct Slice { int64_t begin = 0, end = 0; };

// inputs: ids [B, T] i32, tokens [V, C], positions [T', C]; output [B, T, C] = tokens[id] + positions[t]
struct Embedding {};

// inputs: t [B] or [B, n]; output [B, n·dim]: for each t, cos and sin of t · 10000^(−i / (dim/2 − shift))
// (diffusers:models/embeddings.py, get_timestep_embedding)
struct Sinusoid {
  int64_t dim = 320;
  bool cos_first = true;
  float shift = 0;
};

// y = a·x_0 + b·ε of each sample.  inputs: x_0 [B, ..], noise ε, coefficients a, b [B, 2].  f32: y is f32 whatever the graph's activations
// are.
struct AddNoise { bool f32 = false; };

// inputs: prediction [B, ..], target, weights [B]; output: mean squared error of each sample [B].
// What is differentiated is Σ_b weights_b · output_b.
struct MseLoss {};
// inputs: prediction, target, weights; output: d prediction
struct MseLossGrad {};

using Op = std::variant<MatMul, LoraMatMul, WeightGrad, Conv2d, ConvTranspose2d, Attention, AttentionGrad, GroupNorm, GroupNormGrad,
                        LayerNorm, LayerNormGrad, Activation, ActivationGrad, Geglu, GegluGrad, Add, AddPerSample, SumPositions, Concat,
                        Slice, Embedding, Sinusoid, AddNoise, MseLoss, MseLossGrad>;

const char* name_of(const Op& op);

}  // namespace lorafuse
