// What every op computes, as one slow loop nest each: in f64 it is the truth, in f32 the naive version that sets the tolerance.
#pragma once
#include "arrays.h"
#include "graph/graph.h"

namespace lorafuse::test {

// Inputs and outputs in the op's order. Outputs have their shapes; an op that accumulates adds to what its output holds.
template <class T> struct Operands {
  std::vector<const Array<T>*> inputs;
  std::vector<Array<T>*> outputs;
  // The naive version in 16 bits, which sets the tolerance of kernels in 16 bits, rounds what it would store between its products.
  DType stores = DType::f32;
  T round(T x) const { return rounded_to(stores, x); }
  // What its products round their operands to.
  DType multiplies = DType::f32;
  T operand(T x) const { return rounded_to(multiplies, x); }

  const Array<T>& in(size_t i) const { return *inputs[i]; }
  Array<T>& out(size_t i) const { return *outputs[i]; }

 private:
  static T rounded_to(DType type, T x) { return type == DType::f32 ? x : T(rounded(type, static_cast<float>(x))); }
};

template <class T> void compute(const Op& op, const Operands<T>& operands);  // T is float or double

// Every value of a graph, from `values` where it is an input, weight or parameter; gradients begin with what `values` has. In f32 products
// round their operands to what they multiply, or where that is f32 to what the graph holds.
template <class T> std::vector<Array<T>> interpret(const Graph& graph, std::vector<Array<T>> values, DType multiplies = DType::f32);

}  // namespace lorafuse::test
