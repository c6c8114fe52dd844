// One body for all ops: a row says which op with which inputs, and becomes a case for each CPU variant and number of threads.
#pragma once
#include "arrays.h"
#include "graph/graph.h"

namespace lorafuse::test {

struct Input {
  Shape shape;
  DType dtype = DType::f32;
  std::function<float(Random&)> fill = [](Random& random) { return random.normal(); };
  bool parameter = false;  // trained: f32 on the GPU too
};

struct Row {
  Op op;
  std::vector<Input> inputs;
  std::function<void(std::vector<Array<double>>& inputs)> derive = nullptr;  // computes inputs that follow from others
  std::string label = {};                                                    // the end of its name, by which it can be chosen
};

// How the numbers of an input are distributed.
struct Data { float scale = 1, shift = 0; };

inline Input scaled(Shape shape, Data data) {
  return {std::move(shape), DType::f32, [=](Random& random) { return data.shift + data.scale * random.normal(); }};
}
// Around 1, as the γ of a norm.
inline Input gamma(Shape shape, DType dtype) {
  return {std::move(shape), dtype, [](Random& random) { return 1 + 0.2f * random.normal(); }};
}

// Adds the cases. With one thread, outputs are compared with the f64 reference; with more, they must have the bits of one thread. Inputs,
// and the bytes around outputs and workspace, must not change.
void op_row(Row row);

// The same for the gradient of a norm, without and with a residual of the shape of the first input.
template <class Grad> void norm_gradient_rows(Row row) {
  op_row(row);
  std::get<Grad>(row.op).residual = true;
  row.inputs.push_back({row.inputs[0].shape});
  op_row(std::move(row));
}

}  // namespace lorafuse::test
