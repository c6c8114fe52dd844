// What a training step computes: the loss of the UNet's prediction of a target, for whatever objective the coefficients say.
#pragma once
#include "../model/networks.h"

namespace lorafuse {

// The input that comes with a step instead of its batch: each sample's factor in the loss that is differentiated.
inline constexpr const char* kSampleWeights = "weights";

// Inputs: latents x₀ and noise ε [B, h, w, C], coefficients a, b and target_coefficients c, d [B, 2], and those of the UNet; where text
// encoders are given, theirs instead of the text.
// With x_t = a·x₀ + b·ε and target = c·x₀ + d·ε the result is the mean squared error of each sample [B].
ValueId training_loss(Builder& b, const std::vector<TextEncoder>& encoders = {});

}  // namespace lorafuse
