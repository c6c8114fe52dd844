#include "objective.h"

namespace lorafuse {

ValueId training_loss(Builder& b, const std::vector<TextEncoder>& encoders) {
  const ValueId clean = latents_input(b, "latents", DType::f32);
  const Shape shape = b.shape(clean);
  const int64_t batch = shape[0];
  const ValueId noise = b.input("noise", {batch, shape[1], shape[2], shape[3]});
  const ValueId noisy = b.emit(AddNoise{}, {clean, noise, b.input("coefficients", {batch, 2})});
  const ValueId target = b.emit(AddNoise{.f32 = true}, {clean, noise, b.input("target_coefficients", {batch, 2})});
  const ValueId prediction = unet(b, noisy, encoders.empty() ? text_inputs(b, batch) : encoded_text(b, batch, encoders));
  return b.emit(MseLoss{}, {prediction, target, b.input(kSampleWeights, {batch})});
}

}  // namespace lorafuse
