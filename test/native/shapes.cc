// The shape rules: operands that do not fit are refused, naming the op and the shapes; and the sizes that come out.
#include "backends.h"
#include "graph/graph.h"

namespace lorafuse::test {
namespace {

void refuses(const std::string& what, const Op& op, const std::vector<Shape>& inputs, const std::vector<std::string>& named) {
  test_case(text(name_of(op), " refuses ", what), [=] {
    const std::string message = expect_error("SHAPE_MISMATCH", [&] { output_shapes(op, inputs); });
    EXPECT(message.find(text("[", name_of(op), "]")) == 0, message);
    for (const std::string& part : named) EXPECT(message.find(part) != std::string::npos, "\"", message, "\" does not name ", part);
  });
}

void gives(const Op& op, const std::vector<Shape>& inputs, const std::vector<Shape>& expected) {
  const auto shapes = output_shapes(op, inputs);
  EXPECT(shapes.size() == expected.size(), name_of(op), " has ", shapes.size(), " outputs");
  for (size_t i = 0; i < shapes.size(); i++)
    EXPECT(shapes[i] == expected[i], name_of(op), " gives ", shapes[i], " instead of ", expected[i]);
}

}  // namespace

SUITE(shapes) {
  refuses("weights of another depth", MatMul{}, {{2, 5}, {7, 6}}, {"[2, 5]", "[7, 6]"});
  refuses("transposed weights of another depth", MatMul{{{1, true}}}, {{2, 5}, {7, 5}}, {"[2, 5]", "[7, 5]", "transposed"});
  refuses("a second pair with other outputs", MatMul{{{}, {}}}, {{2, 5}, {7, 5}, {2, 3}, {8, 3}}, {"[8, 3]"});
  refuses("a second pair with other rows", MatMul{{{}, {}}}, {{2, 5}, {7, 5}, {3, 3}, {7, 3}}, {"[3, 3]"});
  refuses("a bias of another length", MatMul{{{}}, {.bias = true}}, {{2, 5}, {7, 5}, {5}}, {"bias", "[7]", "[5]"});
  refuses("a residual of another shape", MatMul{{{}}, {.residual = true}}, {{2, 5}, {7, 5}, {2, 5}}, {"residual", "[2, 7]", "[2, 5]"});
  refuses("a missing bias", MatMul{{{}}, {.bias = true}}, {{2, 5}, {7, 5}}, {"3 inputs"});
  refuses("an odd number of channels to gate", MatMul{{{}}, {.gate = Gate::geglu}}, {{2, 5}, {7, 5}}, {"[2, 7]", "even"});
  refuses("a residual beside a gate", MatMul{{{}}, {.residual = true, .gate = Gate::geglu}}, {{2, 5}, {8, 5}, {2, 8}}, {"residual"});
  refuses("an x of another width", MatMul{{{}}, {.gate = Gate::geglu_grad}}, {{2, 5}, {8, 5}, {2, 8}}, {"[2, 16]", "[2, 8]"});
  refuses("a missing x", LoraMatMulGrad{{1}, {.gate = Gate::geglu_grad}}, {{2, 5}, {5, 8}, {5, 3}, {3, 8}}, {"x [2, 16]"});
  refuses("two gated products", LoraMatMul{{1, 1}, {.gate = Gate::geglu}}, {{2, 5}, {8, 5}, {3, 5}, {8, 3}, {8, 5}, {3, 5}, {8, 3}},
          {"one output", "2"});
  refuses("other numbers of rows", WeightGrad{{1, 1}}, {{2, 5}, {2, 5}, {2, 5}, {3, 5}}, {"[2, 5]", "[3, 5]"});
  refuses("a missing matrix", WeightGrad{{1, 1}}, {{2, 5}, {2, 5}, {2, 5}}, {"4 inputs", "3"});
  refuses("weights of another kernel", Conv2d{}, {{1, 4, 4, 3}, {1, 8, 3}}, {"[1, 8, 3]", "9"});
  refuses("weights of other channels", Conv2d{}, {{1, 4, 4, 3}, {9, 8, 4}}, {"[9, 8, 4]", "3"});
  refuses("tokens instead of an image", Conv2d{}, {{1, 16, 3}, {9, 8, 3}}, {"[1, 16, 3]"});
  refuses("an image smaller than its kernel", Conv2d{3, 1, 0, 0}, {{1, 2, 4, 3}, {9, 8, 3}}, {"[1, 2, 4, 3]"});
  refuses("weights of other channels", ConvTranspose2d{3, 1, 1, 1, 4, 4}, {{1, 4, 4, 8}, {9, 7, 3}}, {"[9, 7, 3]", "[1, 4, 4, 8]"});
  refuses("an output of another size", ConvTranspose2d{4, 2, 1, 1, 8, 6}, {{1, 4, 4, 8}, {16, 8, 3}}, {"[1, 4, 4, 8]", "[1, 8, 6, 3]"});
  refuses("a bias of the input's channels", ConvTranspose2d{4, 2, 1, 1, 8, 8, {.bias = true}}, {{1, 4, 4, 8}, {16, 8, 3}, {8}},
          {"[3]", "[8]"});
  refuses("an image that is no output of the other", ConvWeightGrad{}, {{1, 4, 4, 8}, {1, 5, 4, 3}}, {"[1, 4, 4, 8]", "[1, 5, 4, 3]"});
  refuses("tokens instead of an image", Upsample{}, {{1, 16, 3}}, {"[1, 16, 3]"});
  refuses("an odd height", UpsampleGrad{}, {{1, 3, 4, 3}}, {"[1, 3, 4, 3]"});
  refuses("keys and values of different lengths", Attention{1}, {{1, 4, 6}, {1, 5, 6}, {1, 4, 6}}, {"[1, 5, 6]", "[1, 4, 6]"});
  refuses("channels that its heads do not divide", Attention{4}, {{1, 4, 6}, {1, 5, 6}, {1, 5, 6}}, {"[1, 4, 6]", "4 heads"});
  refuses("keys of another batch", Attention{1}, {{1, 4, 6}, {2, 5, 6}, {2, 5, 6}}, {"[2, 5, 6]"});
  refuses("channels that its groups do not divide", GroupNorm{4}, {{1, 2, 2, 6}, {6}, {6}}, {"6", "4 groups"});
  refuses("a gamma of another length", GroupNorm{2}, {{1, 2, 2, 6}, {5}, {6}}, {"[6]", "[5]"});
  refuses("a gamma of another length", LayerNorm{}, {{2, 6}, {5}, {6}}, {"[6]", "[5]"});
  refuses("an odd number of channels", Geglu{}, {{2, 5}}, {"[2, 5]"});
  refuses("operands of different shapes", Add{}, {{2, 5}, {2, 6}}, {"[2, 5]", "[2, 6]"});
  refuses("an embedding of another batch", AddPerSample{}, {{2, 4, 5}, {1, 5}}, {"[2, 5]", "[1, 5]"});
  refuses("operands that differ in more than channels", Concat{}, {{2, 4, 5}, {2, 3, 5}}, {"[2, 4, 5]", "[2, 3, 5]"});
  refuses("channels that are not there", Slice{2, 6}, {{2, 5}}, {"[2, 5]", "6"});
  refuses("more tokens than positions", Embedding{}, {{1, 9}, {40, 6}, {8, 6}}, {"[1, 9]", "[8, 6]"});
  refuses("gradients of other rows", GatherGrad{{2, 5, 8}}, {{2, 3}, {2, 4, 8}}, {"[2, 3, 8]", "[2, 4, 8]"});
  refuses("images of timesteps", Sinusoid{8}, {{2, 3, 4}}, {"[2, 3, 4]"});
  refuses("noise of another shape", AddNoise{}, {{1, 2, 2, 4}, {1, 2, 2, 3}, {1, 2}}, {"[1, 2, 2, 4]", "[1, 2, 2, 3]"});
  refuses("weights of another batch", MseLoss{}, {{2, 4}, {2, 4}, {3}}, {"[2]", "[3]"});

  test_case("sizes that no machine holds are refused before a product of them overflows", [] {
    constexpr int64_t most = Shape::kMost;
    for (const std::vector<int64_t>& extents : std::vector<std::vector<int64_t>>{{most + 1},
                                                                                 {most, 2},
                                                                                 {2, most},
                                                                                 {INT64_MAX},
                                                                                 {int64_t{1} << 32, int64_t{1} << 32},
                                                                                 {int64_t{1} << 62, 4, 4},
                                                                                 {0, most, most},
                                                                                 {-1}})
      expect_error("OUT_OF_MEMORY", [&] { Shape{extents}; });
    EXPECT(Shape({most}).elements() == most && Shape({most, 1}).rows() == most, "the largest");
    EXPECT(Shape({3, 0}).rows() == 3 && Shape({3, 0}).elements() == 0, "without channels");
    const Shape wide{1, int64_t{1} << 20, int64_t{1} << 20, 4};
    expect_error("OUT_OF_MEMORY", [&] { wide.with_channels(320); });
    expect_error("OUT_OF_MEMORY", [&] { output_shapes(Op(Upsample{}), {{1, int64_t{1} << 21, int64_t{1} << 21, 4}}); });
  });
  test_case("a number that an int does not hold is refused, not cut", [] {
    EXPECT(to_int(INT32_MAX, "heads") == INT32_MAX, "the largest");
    const std::string message = expect_error("NOT_SUPPORTED", [] { to_int(int64_t{1} << 32, "heads"); });
    EXPECT(message.find("heads") != std::string::npos && message.find("4294967296") != std::string::npos, message);
  });
  test_case("names of any length leave a short sentence, cut between characters", [] {
    std::string name;
    for (int i = 0; i < 50000; i++) name += "ä";
    const std::string cut = text("Expected ", name, " to be short");
    EXPECT(cut.size() < 300 && cut.ends_with("ä… to be short"), cut);
  });
  test_case("convolutions give the sizes of diffusers' layers", [] {
    gives(Conv2d{}, {{2, 64, 48, 4}, {9, 320, 4}}, {{2, 64, 48, 320}});
    gives(Conv2d{3, 2, 1, 1}, {{1, 64, 63, 8}, {9, 8, 8}}, {{1, 32, 32, 8}});
    gives(Conv2d{3, 2, 0, 1}, {{1, 512, 513, 3}, {9, 8, 3}}, {{1, 256, 256, 8}});
    gives(Conv2d{1, 1, 0, 0}, {{1, 5, 6, 3}, {1, 8, 3}}, {{1, 5, 6, 8}});
  });
  test_case("each of several numbers has a sinusoid of its own", [] {
    gives(Sinusoid{8}, {{2}}, {{2, 8}});
    gives(Sinusoid{256}, {{2, 6}}, {{2, 1536}});
  });
  test_case("a gate comes after a product's y, its gradient takes the place of dy", [] {
    const std::vector<Shape> product = {{2, 3, 5}, {8, 5}}, lora = {{2, 3, 5}, {8, 5}, {4, 5}, {8, 4}},
                             grad = {{2, 3, 5}, {5, 8}, {5, 4}, {4, 8}};
    auto with_x = [](std::vector<Shape> in) {
      in.push_back({2, 3, 16});
      return in;
    };
    gives(MatMul{{{}}, {.gate = Gate::geglu}}, product, {{2, 3, 8}, {2, 3, 4}});
    gives(MatMul{{{}}, {.gate = Gate::geglu_grad}}, with_x(product), {{2, 3, 16}});
    gives(LoraMatMul{{1}, {.gate = Gate::geglu}}, lora, {{2, 3, 8}, {2, 3, 4}, {2, 3, 4}});
    gives(LoraMatMulGrad{{1}, {.gate = Gate::geglu_grad}}, with_x(grad), {{2, 3, 16}, {2, 3, 4}});
  });
  test_case("attention takes an image's pixels as tokens",
            [] { gives(Attention{2}, {{2, 3, 5, 8}, {2, 7, 8}, {2, 7, 8}}, {{2, 3, 5, 8}, {2, 2, 15}}); });
  test_case("a token id beyond the table is refused where it is looked up", [] {
    for (const std::string& variant : variants()) {
      Graph graph;
      int32_t ids[2] = {3, 40};
      float table[40 * 2] = {}, positions[2 * 2] = {}, out[4];
      const Node node{Embedding{}, {0, 1, 2}, {3}};
      const std::vector<Tensor> tensors = {
          {ids, DType::i32, {1, 2}}, {table, DType::f32, {40, 2}}, {positions, DType::f32, {2, 2}}, {out, DType::f32, {1, 2, 2}}};
      const std::string message = expect_error("TOKEN_OUT_OF_RANGE", [&] { backend(variant, 2).run(node, tensors, nullptr); });
      EXPECT(message.find("40") != std::string::npos, message);
    }
  });
  test_case("a row beyond the tensor is refused where it is gathered", [] {
    for (const std::string& variant : variants())
      for (int32_t row : {6, -1}) {
        int32_t rows[2] = {5, row};
        float x[2 * 3 * 2] = {}, out[4];
        const std::vector<Tensor> tensors = {{x, DType::f32, {2, 3, 2}}, {rows, DType::i32, {2}}, {out, DType::f32, {2, 2}}};
        const std::string message =
            expect_error("ROW_OUT_OF_RANGE", [&] { backend(variant, 2).run(Node{Gather{}, {0, 1}, {2}}, tensors, nullptr); });
        EXPECT(message.find(std::to_string(row)) != std::string::npos, message);
      }
  });
}

}  // namespace lorafuse::test
