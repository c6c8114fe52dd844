#include "adapters.h"

#include "builder.h"

namespace lorafuse {

void check(const Lora& lora, const Layer& layer) {
  CHECK(lora.rank > 0, "RANK_INVALID", "Expected a rank of at least 1 for ", layer.path, " but received ", lora.rank);
}

ValueId apply(const Lora& lora, Builder& b, const Layer& layer, ValueId x, const std::function<ValueId()>& frozen) {
  const ValueId down = b.parameter(layer.path + ".down", {lora.rank, layer.in_features});
  const ValueId up = b.parameter(layer.path + ".up", {layer.out_features, lora.rank});
  const ValueId t = b.emit(MatMul{}, {x, down}), y = frozen();
  return b.emit(Add{}, {y, b.emit(MatMul{{{lora.scale, false}}}, {t, up})});
}

}  // namespace lorafuse
