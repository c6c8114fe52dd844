// The formulas of graph/ops.h, written down as plainly as they read. Nothing here is shared with the kernels.
#include "reference.h"

#include "reference_norms.h"
#include "reference_products.h"

namespace lorafuse::test {
namespace {

template <class T> void run(const Activation& op, const Operands<T>& o) {
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[i] = apply(op.function, o.in(0)[i]);
}
template <class T> void run(const ActivationGrad& op, const Operands<T>& o) {
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[i] = o.in(1)[i] * derivative(op.function, o.in(0)[i]);
}

template <class T> void run(const Geglu&, const Operands<T>& o) {
  const int64_t width = o.out(0).shape[-1];
  for (int64_t r = 0; r < o.out(0).shape.rows(); r++)
    for (int64_t i = 0; i < width; i++) {
      const T a = o.in(0)[r * 2 * width + i], b = o.in(0)[r * 2 * width + width + i];
      o.out(0)[r * width + i] = a * apply(Function::gelu, b);
    }
}
template <class T> void run(const GegluGrad&, const Operands<T>& o) {
  const int64_t width = o.in(1).shape[-1];
  for (int64_t r = 0; r < o.in(1).shape.rows(); r++)
    for (int64_t i = 0; i < width; i++) {
      const int64_t first = r * 2 * width + i, second = first + width;
      const T a = o.in(0)[first], b = o.in(0)[second], dy = o.in(1)[r * width + i];
      o.out(0)[first] = dy * apply(Function::gelu, b);
      o.out(0)[second] = dy * a * derivative(Function::gelu, b);
    }
}

// A gated product is the product, rounded as it would be stored, and then what the gate says.
template <class Product, class T> void run_gated(const Product& op, const Operands<T>& o) {
  const bool is_gradient = op.epilogue.gate == Gate::geglu_grad;
  const Shape& s = o.out(0).shape;
  Array<T> dy(is_gradient ? s.with_channels(s[-1] / 2) : Shape{0});
  Product ungated = op;
  ungated.epilogue.gate = Gate::none;
  Operands<T> product = o, gate = o;
  if (is_gradient) {
    product.inputs.pop_back();
    product.outputs[0] = &dy;
    gate.inputs = {o.inputs.back(), &dy};
  } else {
    product.outputs.pop_back();
    gate.inputs = {&o.out(0)};
    gate.outputs = {o.outputs.back()};
  }
  run(ungated, product);
  for (T& y : product.out(0).data) y = o.round(y);
  if (is_gradient) run(GegluGrad{}, gate);
  else run(Geglu{}, gate);
}

template <class T> void run(const Add&, const Operands<T>& o) {
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[i] = o.in(0)[i] + o.in(1)[i];
}

template <class T> void run(const AddPerSample&, const Operands<T>& o) {
  const Shape& s = o.in(0).shape;
  for (int64_t i = 0; i < s.elements(); i++) o.out(0)[i] = o.in(0)[i] + o.in(1)[i / (positions(s) * s[-1]) * s[-1] + i % s[-1]];
}
template <class T> void run(const SumPositions&, const Operands<T>& o) {
  const Shape& s = o.in(0).shape;
  for (int64_t i = 0; i < s.elements(); i++) o.out(0)[i / (positions(s) * s[-1]) * s[-1] + i % s[-1]] += o.in(0)[i];
}

template <class T> void run(const Concat&, const Operands<T>& o) {
  const int64_t first = o.in(0).shape[-1], second = o.in(1).shape[-1], all = first + second;
  for (int64_t i = 0; i < o.out(0).shape.elements(); i++) {
    const int64_t r = i / all, c = i % all;
    o.out(0)[i] = c < first ? o.in(0)[r * first + c] : o.in(1)[r * second + c - first];
  }
}
template <class T> void run(const Slice& op, const Operands<T>& o) {
  const int64_t width = op.end - op.begin;
  for (int64_t i = 0; i < o.out(0).shape.elements(); i++) o.out(0)[i] = o.in(0)[i / width * o.in(0).shape[-1] + op.begin + i % width];
}

// The pixel of x that element i of the upsampled y comes from.
template <class T> int64_t upsampled(const Array<T>& y, int64_t i) {
  const int64_t channels = y.shape[3], width = y.shape[2], pixel = i / channels;
  return (pixel / width / 2 * (width / 2) + pixel % width / 2) * channels + i % channels;
}
template <class T> void run(const Upsample&, const Operands<T>& o) {
  for (int64_t i = 0; i < o.out(0).shape.elements(); i++) o.out(0)[i] = o.in(0)[upsampled(o.out(0), i)];
}
template <class T> void run(const UpsampleGrad&, const Operands<T>& o) {
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[upsampled(o.in(0), i)] += o.in(0)[i];
}

template <class T> void run(const Embedding&, const Operands<T>& o) {
  const int64_t tokens = o.in(0).shape[1], channels = o.out(0).shape[-1];
  for (int64_t i = 0; i < o.out(0).shape.elements(); i++) {
    const int64_t position = i / channels, c = i % channels;
    o.out(0)[i] = o.in(1)[static_cast<int64_t>(o.in(0)[position]) * channels + c] + o.in(2)[position % tokens * channels + c];
  }
}

template <class T> void run(const Gather&, const Operands<T>& o) {
  const int64_t channels = o.in(0).shape[-1];
  for (int64_t i = 0; i < o.out(0).shape.elements(); i++)
    o.out(0)[i] = o.in(0)[static_cast<int64_t>(o.in(1)[i / channels]) * channels + i % channels];
}
template <class T> void run(const GatherGrad&, const Operands<T>& o) {
  const int64_t channels = o.in(1).shape[-1];
  for (int64_t i = 0; i < o.in(1).shape.elements(); i++)
    o.out(0)[static_cast<int64_t>(o.in(0)[i / channels]) * channels + i % channels] += o.in(1)[i];
}

template <class T> void run(const Sinusoid& op, const Operands<T>& o) {
  const int64_t half = op.dim / 2;
  for (int64_t b = 0; b < o.in(0).shape.elements(); b++)
    for (int64_t i = 0; i < half; i++) {
      const T angle = o.in(0)[b] * std::exp(-std::log(T(10000)) * T(i) / (T(half) - T(op.shift)));
      o.out(0)[b * op.dim + (op.cos_first ? i : half + i)] = std::cos(angle);
      o.out(0)[b * op.dim + (op.cos_first ? half + i : i)] = std::sin(angle);
    }
}

template <class T> void run(const AddNoise&, const Operands<T>& o) {
  const int64_t size = o.in(0).shape.elements() / o.in(0).shape[0];
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++)
    o.out(0)[i] = o.in(2)[2 * (i / size)] * o.in(0)[i] + o.in(2)[2 * (i / size) + 1] * o.in(1)[i];
}

template <class T> void run(const MseLoss&, const Operands<T>& o) {
  const int64_t size = o.in(0).shape.elements() / o.in(0).shape[0];
  for (int64_t b = 0; b < o.in(0).shape[0]; b++) {
    T sum = 0;
    for (int64_t i = b * size; i < (b + 1) * size; i++) sum += (o.in(0)[i] - o.in(1)[i]) * (o.in(0)[i] - o.in(1)[i]);
    o.out(0)[b] = sum / T(size);
  }
}
template <class T> void run(const MseLossGrad&, const Operands<T>& o) {
  const int64_t size = o.in(0).shape.elements() / o.in(0).shape[0];
  for (int64_t i = 0; i < o.in(0).shape.elements(); i++) o.out(0)[i] = 2 * o.in(2)[i / size] * (o.in(0)[i] - o.in(1)[i]) / T(size);
}

}  // namespace

template <class T> void compute(const Op& op, const Operands<T>& operands) {
  std::visit(
      [&](const auto& kind) {
        if constexpr (requires { kind.epilogue; })
          if (kind.epilogue.gate != Gate::none) return run_gated(kind, operands);
        run(kind, operands);
      },
      op);
}

template <class T> std::vector<Array<T>> interpret(const Graph& graph, std::vector<Array<T>> values, DType multiplies) {
  values.resize(graph.values.size());
  // In f32 as a naive version computes it: what a graph holds in 16 bits is rounded.
  auto hold = [&](ValueId v) {
    if (std::is_same_v<T, float> && size_of(graph.values[v].dtype) == 2)
      for (T& x : values[v].data) x = T(rounded(graph.values[v].dtype, static_cast<float>(x)));
  };
  for (size_t v = 0; v < values.size(); v++) {
    if (values[v].data.empty()) values[v] = Array<T>(graph.values[v].shape);
    hold(static_cast<ValueId>(v));
  }
  for (const Node& node : graph.nodes) {
    Operands<T> operands;
    for (ValueId v : node.inputs) operands.inputs.push_back(&values[v]);
    for (ValueId v : node.outputs) operands.outputs.push_back(&values[v]);
    if (std::is_same_v<T, float>) {
      operands.stores = graph.dtype;
      operands.multiplies = multiplies == DType::f32 ? graph.dtype : multiplies;
    }
    compute(node.op, operands);
    for (ValueId v : node.outputs) hold(v);
  }
  return values;
}

template void compute(const Op&, const Operands<float>&);
template void compute(const Op&, const Operands<double>&);
template std::vector<Array<float>> interpret(const Graph&, std::vector<Array<float>>, DType);
template std::vector<Array<double>> interpret(const Graph&, std::vector<Array<double>>, DType);

}  // namespace lorafuse::test
