// Rows of conv2d and conv_transpose2d: 1×1, 3×3 and 4×4, both strides, the UNet's padding (1, 1) and the VAE encoder's (0, 1), odd sizes;
// and the upsampling convolution against what it stands for.
#include "checkpoint.h"
#include "graphs.h"
#include "op_rows.h"

namespace lorafuse::test {
namespace {

struct Window { int kernel = 3, stride = 1, before = 1, after = 1; };
constexpr Window kSame{}, kPoint{1, 1, 0, 0}, kHalf{3, 2, 1, 1}, kVae{3, 2, 0, 1}, kPointHalf{1, 2, 0, 0}, kDouble{4, 2, 1, 1};

int64_t extent(const Window& w, int64_t size) { return (size + w.before + w.after - w.kernel) / w.stride + 1; }

// x [B, H, W, C] to N channels, and transposed.
void row(const Window& w, const Shape& x, int64_t outputs, DType dtype = DType::f32, bool bias = false, bool residual = false) {
  const Shape weights{w.kernel * w.kernel, outputs, x[3]}, y{x[0], extent(w, x[1]), extent(w, x[2]), outputs};
  Row forward{Conv2d{w.kernel, w.stride, w.before, w.after, {bias, residual}}, {{x}, {weights, dtype}}};
  if (bias) forward.inputs.push_back({Shape{outputs}, dtype});
  if (residual) forward.inputs.push_back({y});
  op_row(std::move(forward));
  Row back{ConvTranspose2d{w.kernel, w.stride, w.before, w.after, x[1], x[2], {bias, residual}}, {{y}, {weights, dtype}}};
  if (bias) back.inputs.push_back({Shape{x[3]}, dtype});
  if (residual) back.inputs.push_back({x});
  op_row(std::move(back));
}

// Every product of the 3×3 convolution of x, each pixel of it doubled: f(element of x, of y, of w [N, C, 3, 3]).
template <class F> void for_upsampled(const Shape& x, int64_t outputs, F f) {
  const int64_t height = 2 * x[1], width = 2 * x[2], inputs = x[3];
  for (int64_t pixel = 0; pixel < x[0] * height * width; pixel++)
    for (int64_t tap = 0; tap < 9; tap++) {
      const int64_t row = pixel / width % height + tap / 3 - 1, column = pixel % width + tap % 3 - 1, image = pixel / width / height;
      if (row < 0 || row >= height || column < 0 || column >= width) continue;
      const int64_t from = (image * x[1] + row / 2) * x[2] + column / 2;
      for (int64_t n = 0; n < outputs; n++)
        for (int64_t c = 0; c < inputs; c++) f(from * inputs + c, pixel * outputs + n, (n * inputs + c) * 9 + tap);
    }
}

// All numbers are integers: what the ops make of them in f64 can be compared as they are.
void upsamples(DType file, DType held) {
  const int64_t channels = 7, inputs = 3;
  auto integers = [random = Random(2)](int64_t count) mutable {
    std::vector<float> all;
    for (int64_t i = 0; i < count; i++) all.push_back(static_cast<float>(random.below(7) - 3));
    return all;
  };
  const auto w = integers(channels * channels * 9), bias = integers(channels);
  TemporaryFolder folder;
  auto bytes = stored(file, w);
  const size_t end = bytes.size();
  for (unsigned char byte : stored(file, bias)) bytes.push_back(byte);
  write_file(folder.file("weights"), bytes);
  Weights weights({held, std::nullopt});
  weights.add(folder.file("weights"), {{"up.weight", file, {channels, channels, 3, 3}, 0}, {"up.bias", file, {channels}, end}});

  const Config config;
  Builder b = builder(config, weights, kNoAdapters);
  const ValueId x = b.input("x", {2, 3, 5, inputs}), down = b.graph.value({"down", {channels, inputs}, DType::f32, Storage::parameter});
  const ValueId t = b.emit(MatMul{}, {x, down}), y = b.upsample("up", t);
  const Shape shape = b.shape(y);
  const ValueId target = b.input("target", {shape[0], shape[1], shape[2], shape[3]});
  const ValueId loss = b.emit(MseLoss{}, {y, target, b.input("weights", {2})});
  const Graph graph = gradients(b.graph, loss);
  Feed feed = train_feed(graph, weights, 1);
  for (auto& [v, data] : feed) {
    const Value& value = graph.values[v];
    if (value.name == "weights") data.assign(2, static_cast<float>(shape.elements() / 2) / 2);  // dy = y − target
    else if (value.storage != Storage::weight) data = integers(value.shape.elements());
  }
  const auto values = interpret<double>(graph, feed);

  Array<double> expected(shape), dt(b.shape(t)), gradient(Shape{channels, inputs});
  for (int64_t i = 0; i < shape.elements(); i++) expected[i] = bias[i % channels];
  for_upsampled(dt.shape, channels, [&](int64_t from, int64_t to, int64_t i) { expected[to] += values[t][from] * w[i]; });
  for_upsampled(dt.shape, channels, [&](int64_t from, int64_t to, int64_t i) { dt[from] += (expected[to] - values[target][to]) * w[i]; });
  for (int64_t i = 0; i < dt.shape.elements(); i++)
    for (int64_t k = 0; k < inputs; k++) gradient[i % channels * inputs + k] += dt[i] * values[x][i / channels * inputs + k];
  for (int64_t i = 0; i < shape.elements(); i++)
    EXPECT(values[y][i] == expected[i], "y ", i, ": ", values[y][i], " instead of ", expected[i]);
  const ValueId g = graph.nodes.back().outputs[0];
  EXPECT(graph.values[g].storage == Storage::gradient, "the last node makes ", graph.values[g].name);
  for (int64_t i = 0; i < channels * inputs; i++) {
    const double derived = values[g][i] - feed.at(g)[i];
    EXPECT(std::fabs(derived - gradient[i]) < 0.01, "gradient ", i, ": ", derived, " instead of ", gradient[i]);
  }
}

}  // namespace

SUITE(conv2d) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    row(kSame, {2, 5, 7, 6}, 9, dtype, true, true);
    row(kHalf, {2, 7, 6, 33}, 40, dtype, true);
    row(kVae, {1, 8, 6, 16}, 33, dtype, true);
    row(kPoint, {2, 3, 5, 20}, 17, dtype, true, true);
    row(kDouble, {2, 6, 10, 9}, 7, dtype, true, true);
  }
  for (const Window& w : {kSame, kHalf, kVae, kDouble})
    for (int64_t height : {1, 2, 3, 4, 15})
      for (int64_t width : {1, 2, 3, 14, 15, 16, 29, 31})
        if (extent(w, height) > 0 && extent(w, width) > 0 && (height * width <= 60 || height == 15)) row(w, {1, height, width, 3}, 5);
  for (int64_t channels = 1; channels <= 17; channels++) row(kSame, {1, 3, 4, channels}, 18 - channels);
  for (int64_t outputs : {31, 32, 33, 63, 64, 65, 160, 161}) row(kSame, {1, 2, 5, 7}, outputs, DType::f16);
  row(kPointHalf, {2, 5, 4, 8}, 6);
  row(kSame, {1, 8, 8, 4}, 64, DType::f32, true);          // conv_in
  row(kSame, {1, 8, 8, 64}, 4, DType::f32, true);          // conv_out
  row(kSame, {1, 4, 4, 321}, 48, DType::f32, true, true);  // deeper than a chunk
  row(kHalf, {1, 8, 8, 320}, 32, DType::bf16, true);
  row(kDouble, {2, 8, 6, 48}, 328, DType::f16, true, true);
  row(kSame, {1, 16, 17, 24}, 168, DType::f32, true);
}

// What the CPU computes in fewer products: see native/cpu/winograd.h.
SUITE(winograd) {
  for (DType dtype : {DType::f32, DType::f16, DType::bf16}) row(kSame, {2, 13, 11, 64}, 80, dtype, true, true);
  row(kSame, {1, 1, 96, 64}, 64);
  row(kSame, {1, 97, 1, 64}, 64, DType::f32, true);
  row(kSame, {1, 16, 14, 320}, 64, DType::f32, false, true);
  row(kSame, {1, 14, 15, 80}, 352, DType::bf16, true);                 // deeper than a chunk, and more than one job of columns
  op_row({Conv2d{}, {{Shape{1, 110, 117, 64}}, {Shape{9, 64, 64}}}});  // more tiles than are transformed at once
}

SUITE(upsampling) {
  for (DType file : {DType::f32, DType::f16, DType::bf16})
    for (DType held : {DType::f32, DType::f16, DType::bf16})
      test_case(text("one op is 2x upsampling and a 3x3 convolution, weights in ", name_of(file), " held as ", name_of(held)),
                [=] { upsamples(file, held); });
}

}  // namespace lorafuse::test
