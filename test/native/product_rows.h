// The row of a product, for the suites of those with adapters too.
#pragma once
#include "op_rows.h"

namespace lorafuse::test {

// y = Σ x_i · w_iᵀ; depths[i] and pairs[i] belong together.
inline void product_row(const Shape& rows, int64_t outputs, const std::vector<int64_t>& depths, DType dtype = DType::f32,
                        std::vector<MatMul::Pair> pairs = {{}}, Epilogue end = {}) {
  Row r{MatMul{pairs, end}, {}};
  for (size_t i = 0; i < depths.size(); i++) {
    r.inputs.push_back({rows.with_channels(depths[i])});
    // The second pair is an adapter: always f32.
    r.inputs.push_back({pairs[i].transposed ? Shape{depths[i], outputs} : Shape{outputs, depths[i]}, i ? DType::f32 : dtype});
  }
  if (end.bias) r.inputs.push_back({Shape{outputs}, dtype});
  if (end.residual) r.inputs.push_back({rows.with_channels(outputs)});
  if (end.gate == Gate::geglu_grad) r.inputs.push_back({rows.with_channels(2 * outputs)});
  op_row(std::move(r));
}

}  // namespace lorafuse::test
