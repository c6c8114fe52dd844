// 3×3 convolutions of stride 1 with 4 products where there are 9: Winograd's F(2×2, 3×3) (arXiv:1509.09308, section 4.1).
//
// y = Aᵀ [Σ_C (G w Gᵀ) ⊙ (Bᵀ d B)] A for each tile of 2×2 pixels of y and the 4×4 of x, d, around it: 16 matrix products over the channels,
// each of all tiles.
#pragma once
#include <optional>

#include "kernels.h"

namespace lorafuse::cpu {

// A convolution, or the gradient of its input, that is worth it.
struct Winograd {
  int64_t images, height, width;  // of x and y
  int64_t inputs, outputs;        // channels of x and y
  bool transposed;                // w is [9, inputs, outputs], and its taps are in reverse; else [9, outputs, inputs]

  int64_t tiles_across() const { return (width + 1) / 2; }
  int64_t tiles_down() const { return (height + 1) / 2; }
  int64_t tiles() const { return images * tiles_down() * tiles_across(); }
  // How many tiles are computed at once, all from transformed weights that are made for them.
  int64_t block() const;
  size_t workspace_bytes(int threads) const;
  // bias and residual may be null.
  void run(const Tensor& x, const Tensor& w, const Tensor& y, const Tensor* bias, const Tensor* residual, Threads& threads,
           void* workspace) const;
};

// None where the plain loop of conv.cc is as fast.
template <class Convolution> std::optional<Winograd> winograd(const Convolution& op, const Shape& x, const Shape& w);

}  // namespace lorafuse::cpu
