#include "adapters.h"

#include "builder.h"

namespace lorafuse {

void check(const Lora& lora, const Layer& layer) {
  CHECK(lora.rank > 0, "RANK_INVALID", "Expected a rank of at least 1 for ", layer.path, " but received ", lora.rank);
}

ValueId apply(const Lora& lora, Builder& b, const Layer& layer, ValueId x, const std::function<ValueId()>& frozen) {
  const bool is_product = layer.is_product();
  const int64_t taps = int64_t{layer.window.kernel} * layer.window.kernel;
  const Shape shape = is_product ? Shape{lora.rank, layer.in_features} : Shape{taps, lora.rank, layer.in_features};
  const ValueId down = b.parameter(layer.path + ".down", shape);
  const ValueId up = b.parameter(layer.path + ".up", {layer.out_features, lora.rank});
  if (layer.doubles) x = b.emit(Upsample{}, {x});
  const ValueId t = is_product ? b.emit(MatMul{}, {x, down}) : b.emit(layer.window, {x, down}), y = frozen();
  return b.emit(Add{}, {y, b.emit(MatMul{{{lora.scale, false}}}, {t, up})});
}

}  // namespace lorafuse
