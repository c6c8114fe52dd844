// Every op with a gradient, between adapters and the loss: the derived backward in f64 against central differences of the forward,
// and the backends' gradients against that f64.
#include "checkpoint.h"
#include "graphs.h"

namespace lorafuse::test {
namespace {

struct Net {
  Graph graph;
  ValueId loss = kNone;

  ValueId input(Shape shape) { return graph.value({text("input ", graph.values.size()), std::move(shape), DType::f32, Storage::input}); }
  ValueId weight(Shape shape, DType dtype = DType::f32) { return graph.value({"weight", std::move(shape), dtype, Storage::weight}); }
  ValueId parameter(Shape shape) {
    return graph.value({text("parameter ", graph.values.size()), std::move(shape), DType::f32, Storage::parameter});
  }
  ValueId emit(Op op, std::vector<ValueId> inputs) { return graph.emit(std::move(op), std::move(inputs)); }
  // y = x·Wᵀ + scale · x·downᵀ·upᵀ: a frozen layer with an adapter, as the models have them.
  ValueId adapted(ValueId x, int64_t outputs, float scale = 0.5f) {
    const int64_t inputs = graph.shape(x)[-1], rank = 2;
    const ValueId t = emit(MatMul{}, {x, parameter({rank, inputs})});
    return emit(Add{}, {emit(MatMul{}, {x, weight({outputs, inputs})}), emit(MatMul{{{scale, false}}}, {t, parameter({outputs, rank})})});
  }
  void end(ValueId prediction) {
    const Shape shape = graph.shape(prediction);
    loss = emit(MseLoss{}, {prediction, input(shape), input({shape[0]})});
    graph.results = {loss};
  }
};

// Σ_b weights_b · loss_b, which is what gradients() differentiates.
double objective(const Net& net, const std::vector<Array<double>>& values) {
  const Array<double> losses = interpret(net.graph, values)[net.loss];
  const Node& node = net.graph.nodes.back();
  double sum = 0;
  for (int64_t b = 0; b < losses.shape.elements(); b++) sum += values[node.inputs[2]][b] * losses[b];
  return sum;
}

// d objective / d values[v][i] from five points: wrong by h⁴ times a fifth derivative and ε/h, both about 1e-12.
double difference(const Net& net, std::vector<Array<double>>& values, ValueId v, int64_t i) {
  constexpr double h = 1e-3;
  double& x = values[v][i];
  const double middle = x;
  auto at = [&](double step) {
    x = middle + step;
    const double f = objective(net, values);
    x = middle;
    return f;
  };
  return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
}

// Far above what the differences are wrong by, far below what any mistake in a rule makes.
constexpr double kClose = 1e-8;

void check_differences(const Net& net, const Graph& backward, const Feed& feed) {
  std::vector<Array<double>> values(net.graph.values.size());
  for (size_t v = 0; v < values.size(); v++)
    if (feed.contains(v)) values[v] = Array<double>(net.graph.shape(v), feed.at(v));
  const auto derived = interpret<double>(backward, feed);
  const auto key = [](const Value& v) { return std::pair(v.network, v.name); };
  std::map<std::pair<std::string, std::string>, ValueId> parameters;
  for (size_t v = 0; v < values.size(); v++)
    if (net.graph.values[v].storage == Storage::parameter) parameters[key(net.graph.values[v])] = v;
  size_t found = 0;
  for (size_t g = values.size(); g < backward.values.size(); g++) {
    if (backward.values[g].storage != Storage::gradient) continue;
    found++;
    const ValueId v = parameters.at(key(backward.values[g]));
    std::vector<double> expected;
    double scale = 0;
    for (int64_t i = 0; i < net.graph.shape(v).elements(); i++) {
      expected.push_back(difference(net, values, v, i));
      scale = std::max(scale, std::fabs(expected.back()));
    }
    EXPECT(scale > 0, "the loss does not depend on ", backward.values[g].name);
    for (size_t i = 0; i < expected.size(); i++) {
      const double d = derived[g][i] - feed.at(g)[i];
      EXPECT(std::fabs(d - expected[i]) <= kClose * scale, backward.values[g].name, " element ", i, ": derived ", d, ", differences give ",
             expected[i]);
    }
  }
  EXPECT(found == parameters.size(), found, " gradients of ", parameters.size(), " parameters");
}

void check_backends(const Graph& backward) {
  constexpr int kTrials = 8;
  for (const Graph& graph : {backward, fuse(backward)})
    for (const std::string& variant : variants()) {
      GraphDeviation actual, naive;
      for (uint64_t seed = 0; seed < kTrials; seed++) {
        const Feed feed = random_feed(backward, seed);
        const auto expected = interpret<double>(backward, feed);
        naive.add(backward, outcome_of(backward, interpret<float>(backward, feed, multiplies(variant))), expected);
        actual.add(graph, execute(backend(variant, 2), graph, feed), expected);
      }
      expect_as_good(actual, naive);
    }
}

void gradient_case(const std::string& name, const std::function<ValueId(Net&)>& body) {
  test_case("gradient " + name, [body] {
    Net net;
    net.end(body(net));
    const Graph backward = gradients(net.graph, net.loss);
    check_differences(net, backward, random_feed(backward, 1));
    check_backends(backward);
  });
}

// A step that encodes its text, with adapters on the text encoders alone; two chunks of ids for each sample.
Net text_step(const std::vector<std::pair<Config, TextStates>>& texts, const Config& unet, int64_t batch) {
  const TemporaryFolder folder;
  std::deque<Weights> weights;
  const auto add = [&](const Layout& layout) -> const Weights& {
    weights.emplace_back(Weights::StorageTypes{}).add(write_sparse(folder.file(text(weights.size())), layout).path, layout.entries);
    return weights.back();
  };
  std::deque<Adapters> adapters;
  std::vector<TextEncoder> encoders;
  Shapes shapes = {{"latents", {batch, 2, 2, 4}}};
  for (const auto& [config, states] : texts) {
    const std::string name = text("text_encoder_", encoders.size() + 1);
    const Network network{name, &config, &add(text_encoder_layout(config)), &kNoAdapters};
    Builder b(network, DType::f32);
    find_function("clip", "encode").build(b, {});
    // Those that the hidden states leave out have no gradient unless the text is pooled.
    b.layers.resize(b.layers.size() - (states.pooled ? 0 : 6 * states.skip));
    encoders.push_back({{name, &config, network.weights, &adapters.emplace_back(adapters_for(b.layers, 1))}, states});
    shapes[name + ".ids"] = {2 * batch, 4};
    shapes[name + ".rows"] = {batch, 6};
  }
  const Weights& of_unet = add(unet_layout(unet));
  Builder b({"unet", &unet, &of_unet, &kNoAdapters}, DType::f32, shapes);
  Net net;
  net.loss = training_loss(b, encoders);
  net.graph = std::move(b.graph);
  net.graph.results = {net.loss};
  return net;
}

ValueId image(Net& net) { return net.input({2, 4, 3, 5}); }

void convolution(const char* name, Conv2d op, Shape x) {
  gradient_case(name, [=](Net& net) {
    const Shape weights{op.kernel * op.kernel, 6, x[-1]};
    std::vector<ValueId> inputs = {net.adapted(net.input(x.with_channels(3)), x[-1]), net.weight(weights, DType::f16)};
    if (op.epilogue.bias) inputs.push_back(net.weight({6}));
    const Shape y = output_shapes(Conv2d{op.kernel, op.stride, op.before, op.after}, {x, weights})[0];
    if (op.epilogue.residual) inputs.push_back(net.adapted(net.input(y), 6));
    return net.emit(op, inputs);
  });
}

}  // namespace

SUITE(gradients_of_products) {
  gradient_case("of an adapter alone", [](Net& net) { return net.adapted(image(net), 4); });
  gradient_case("of an adapter through another and a frozen layer", [](Net& net) {
    const ValueId x =
        net.emit(MatMul{{{}}, {.bias = true}}, {net.adapted(image(net), 6), net.weight({4, 6}, DType::bf16), net.weight({4})});
    return net.adapted(x, 3, 2);
  });
  gradient_case("of an adapter that two layers share", [](Net& net) {
    const ValueId shared = net.parameter({5, 5}), x = net.emit(MatMul{{{0.5f, false}}}, {image(net), shared});
    return net.emit(MatMul{{{1, true}}}, {x, shared});
  });
  gradient_case("of transposed operands", [](Net& net) {
    const ValueId x = net.emit(MatMul{{{-1.5f, true}}}, {net.adapted(image(net), 6), net.weight({6, 4})});
    return net.emit(MatMul{{{0.5f, true}}}, {x, net.parameter({4, 3})});
  });
  gradient_case("of both pairs of a product and its residual", [](Net& net) {
    const ValueId x = net.adapted(image(net), 4), z = net.adapted(image(net), 3), r = net.adapted(image(net), 6);
    return net.emit(MatMul{{{2, false}, {0.5f, true}}, {true, true}},
                    {x, net.weight({6, 4}), z, net.parameter({3, 6}), net.weight({6}), r});
  });
  convolution("of a 3x3 convolution", {}, {2, 4, 5, 4});
  convolution("of a 3x3 convolution with bias and residual", {3, 1, 1, 1, {true, true}}, {1, 3, 4, 4});
  convolution("of a convolution with stride 2, even sizes", {3, 2, 1, 1}, {2, 4, 6, 3});
  convolution("of a convolution with stride 2, odd sizes", {3, 2, 1, 1}, {1, 5, 3, 3});
  convolution("of a convolution with stride 2, padded at the end only", {3, 2, 0, 1}, {1, 6, 4, 3});
  convolution("of a convolution with stride 2, padded at the end only, odd sizes", {3, 2, 0, 1}, {1, 5, 7, 3});
  convolution("of a 1x1 convolution", {1, 1, 0, 0}, {1, 3, 4, 5});
  gradient_case("of a transposed convolution with bias and residual", [](Net& net) {
    const ValueId x = net.adapted(net.input({2, 3, 2, 3}), 5), residual = net.adapted(net.input({2, 6, 4, 3}), 4);
    return net.emit(ConvTranspose2d{4, 2, 1, 1, 6, 4, {true, true}}, {x, net.weight({16, 5, 4}, DType::f16), net.weight({4}), residual});
  });
}

SUITE(gradients_of_trained_kernels) {
  for (const Conv2d& op : {Conv2d{}, {3, 2, 1, 1}, {3, 2, 0, 1}, {1, 1, 0, 0}})
    gradient_case(text("of a trained ", op.kernel, "x", op.kernel, " kernel, stride ", op.stride, ", padded by ", op.before),
                  [=](Net& net) {
                    const ValueId x = net.adapted(net.input({2, 5, 4, 3}), 4);
                    return net.emit(op, {x, net.parameter({op.kernel * op.kernel, 6, 4})});
                  });
  gradient_case("of a trained kernel and the layer after it, as an adapter has them", [](Net& net) {
    const ValueId x = net.input({1, 4, 4, 5}), down = net.emit(Conv2d{}, {x, net.parameter({9, 2, 5})});
    const ValueId y = net.emit(Conv2d{3, 1, 1, 1, {.bias = true}}, {x, net.weight({9, 6, 5}), net.weight({6})});
    return net.emit(Add{}, {y, net.emit(MatMul{{{0.5f, false}}}, {down, net.parameter({6, 2})})});
  });
  gradient_case("of a trained kernel beside an upsampling convolution", [](Net& net) {
    const ValueId x = net.adapted(net.input({1, 2, 3, 3}), 4), y = net.emit(Upsample{}, {x});
    const ValueId t = net.emit(Conv2d{}, {y, net.parameter({9, 2, 4})});
    const ValueId frozen = net.emit(ConvTranspose2d{4, 2, 1, 1, 4, 6, {.bias = true}}, {x, net.weight({16, 4, 4}), net.weight({4})});
    return net.emit(Add{}, {frozen, net.emit(MatMul{{{0.5f, false}}}, {t, net.parameter({4, 2})})});
  });
  gradient_case("of a trained kernel after upsampling", [](Net& net) {
    const ValueId x = net.emit(Upsample{}, {net.adapted(net.input({2, 2, 3, 3}), 4)});
    return net.emit(Conv2d{}, {x, net.parameter({9, 5, 4})});
  });
  gradient_case("of a trained kernel of a transposed convolution", [](Net& net) {
    const ValueId x = net.adapted(net.input({2, 2, 3, 3}), 4);
    return net.emit(ConvTranspose2d{4, 2, 1, 1, 4, 6}, {x, net.parameter({16, 4, 5})});
  });
}

SUITE(gradients_of_attention) {
  for (int heads : {1, 2})
    gradient_case(text("of q, k and v of attention, heads ", heads), [=](Net& net) {
      const ValueId q = net.adapted(net.input({2, 5, 4}), 6), k = net.adapted(net.input({2, 7, 3}), 6);
      return net.emit(Attention{heads}, {q, k, net.adapted(net.input({2, 7, 3}), 6)});
    });
  gradient_case("of self attention over an image, q, k and v from one value", [](Net& net) {
    const ValueId x = net.adapted(net.input({2, 3, 2, 4}), 6);
    return net.emit(Attention{3}, {net.adapted(x, 6), net.adapted(x, 6), net.adapted(x, 6)});
  });
  gradient_case("of attention where q, k and v are the same value", [](Net& net) {
    const ValueId x = net.adapted(net.input({1, 4, 4}), 6);
    return net.emit(Attention{2}, {x, x, x});
  });
  for (int heads : {1, 2})
    gradient_case(text("of causal attention, heads ", heads), [=](Net& net) {
      const ValueId x = net.adapted(net.input({2, 5, 4}), 6);
      return net.emit(Attention{heads, true}, {net.adapted(x, 6), net.adapted(x, 6), net.adapted(x, 6)});
    });
  gradient_case("of q alone, keys and values frozen", [](Net& net) {
    const ValueId q = net.adapted(net.input({1, 2, 2, 4}), 4), k = net.input({1, 5, 4}), v = net.input({1, 5, 4});
    return net.emit(Attention{2}, {q, k, v});
  });
}

SUITE(gradients_of_text) {
  const auto text_case = [](const std::string& name, const std::function<Net()>& make) {
    test_case("gradient " + name, [make] {
      const Net net = make();
      const Graph backward = gradients(net.graph, net.loss);
      check_differences(net, backward, random_feed(backward, 1));
      check_backends(backward);
    });
  };
  text_case("of a text encoder through a UNet", [] { return text_step({{small_text_encoder(), {}}}, small_unet(), 2); });
  text_case("of a text encoder whose last layer is left out",
            [] { return text_step({{small_text_encoder(), {.skip = 1}}}, small_unet(), 1); });
  text_case("of two text encoders side by side, one of which pools", [] {
    return text_step({{small_text_encoder(), {.skip = 1, .norm = false}}, {small_pooled_text_encoder(), {1, false, true}}},
                     small_sdxl_unet(), 2);
  });
}

SUITE(gradients_of_norms) {
  for (bool silu : {false, true})
    for (int groups : {1, 2, 6})
      gradient_case(text("of group_norm, ", groups, " groups", silu ? " and silu" : ""), [=](Net& net) {
        return net.emit(GroupNorm{groups, 1e-5f, silu}, {net.adapted(image(net), 6), net.weight({6}), net.weight({6}, DType::f16)});
      });
  gradient_case("of layer_norm", [](Net& net) {
    return net.emit(LayerNorm{}, {net.adapted(image(net), 6), net.weight({6}, DType::bf16), net.weight({6})});
  });
}

SUITE(gradients_of_pointwise_ops) {
  for (const auto& [name, function] : {std::pair{"silu", Function::silu}, {"gelu", Function::gelu}, {"quick_gelu", Function::quick_gelu}})
    gradient_case(text("of ", name),
                  [function = function](Net& net) { return net.emit(Activation{function}, {net.adapted(image(net), 6)}); });
  gradient_case("of geglu", [](Net& net) { return net.emit(Geglu{}, {net.adapted(image(net), 6)}); });
  gradient_case("of both summands of add",
                [](Net& net) { return net.emit(Add{}, {net.adapted(image(net), 4), net.adapted(image(net), 4)}); });
  gradient_case("of a value that is added to itself and read a third time", [](Net& net) {
    const ValueId x = net.adapted(image(net), 4);
    return net.emit(Add{}, {net.emit(Add{}, {x, x}), net.emit(Activation{Function::silu}, {x})});
  });
  gradient_case("of add_per_sample, both operands",
                [](Net& net) { return net.emit(AddPerSample{}, {net.adapted(image(net), 4), net.adapted(net.input({2, 3}), 4)}); });
  gradient_case("of gathered rows", [](Net& net) {
    const ValueId rows = net.graph.value({"rows", {2, 25}, DType::i32, Storage::input});  // of the 30 that random_feed chooses from
    return net.emit(Gather{}, {net.adapted(net.input({2, 15, 3}), 4), rows});
  });
  gradient_case("of concat, both operands",
                [](Net& net) { return net.emit(Concat{}, {net.adapted(image(net), 4), net.adapted(image(net), 3)}); });
  gradient_case("of concat, one operand frozen",
                [](Net& net) { return net.emit(Concat{}, {net.input({2, 4, 3, 2}), net.adapted(image(net), 3)}); });
}

SUITE(gradients) {
  test_case("gradients adds nothing before the first adapter", [] {
    Net net;
    ValueId x = image(net);
    for (int i = 0; i < 3; i++) x = net.emit(Activation{Function::silu}, {net.emit(MatMul{}, {x, net.weight({5, 5})})});
    net.end(net.adapted(x, 5));
    const Graph backward = gradients(net.graph, net.loss);
    const size_t added = backward.nodes.size() - net.graph.nodes.size();
    // d prediction, the gradient of `up`, d(x·downᵀ), the gradient of `down`.
    EXPECT(added == 4, added, " nodes");
    EXPECT(count<MseLossGrad>(backward) == 1 && count<WeightGrad>(backward) == 2, "other nodes than the rules name");
  });
  test_case("a loss that depends on no adapter is refused", [] {
    Net net;
    net.end(image(net));
    expect_error("NO_GRADIENT", [&] { gradients(net.graph, net.loss); });
  });
  auto refuses = [](const char* what, const std::vector<std::string>& named, const std::function<ValueId(Net&)>& body) {
    test_case(text("gradients names a parameter that would get none: ", what), [=] {
      Net net;
      net.graph.layer = "some.layer";
      net.end(body(net));
      const std::string message = expect_error("NO_GRADIENT", [&] { gradients(net.graph, net.loss); });
      for (const std::string& part : named) EXPECT(message.find(part) != std::string::npos, "\"", message, "\" does not name ", part);
    });
  };
  const std::string layer = "some.layer";
  refuses("an op without a rule", {"[slice]", layer, "input 0", "parameter 1"}, [](Net& net) {
    const ValueId x = net.emit(MatMul{}, {image(net), net.parameter({4, 5})});
    return net.emit(Slice{0, 2}, {x});
  });
  refuses("a weight that is computed", {"[mat_mul]", layer, "input 1", "parameter 2"}, [](Net& net) {
    const ValueId x = image(net), w = net.emit(MatMul{}, {net.weight({6, 3}), net.parameter({5, 3})});
    return net.emit(MatMul{}, {x, w});
  });
  refuses("gamma", {"[group_norm]", layer, "input 1", "parameter 1"},
          [](Net& net) { return net.emit(GroupNorm{1}, {image(net), net.parameter({5}), net.weight({5})}); });
  refuses("beta", {"[layer_norm]", "input 2", "parameter 2"},
          [](Net& net) { return net.emit(LayerNorm{}, {image(net), net.weight({5}), net.parameter({5})}); });
  refuses("a bias", {"[mat_mul]", "input 2", "parameter 2"},
          [](Net& net) { return net.emit(MatMul{{{}}, {.bias = true}}, {image(net), net.weight({4, 5}), net.parameter({4})}); });
  refuses("a summand", {"[add]", "input 1", "parameter 1"},
          [](Net& net) { return net.emit(Add{}, {image(net), net.parameter({2, 4, 3, 5})}); });
  refuses("the target of the loss", {"[mse_loss]", "input 1"}, [](Net& net) {
    const ValueId prediction = net.adapted(image(net), 4);
    return net.emit(MseLoss{}, {prediction, net.adapted(image(net), 4), net.input({2})});
  });
  refuses("one that nothing reads", {"[gradients]", "parameter 0"}, [](Net& net) {
    net.parameter({3});
    return net.adapted(image(net), 4);
  });
  test_case("gradients and fused nodes keep the layer and block, gradients the network and group, of what they come from", [] {
    Net net;
    net.graph.layer = "a.layer", net.graph.block = "a";
    const ValueId y = net.adapted(image(net), 4);
    for (Value& v : net.graph.values)
      if (v.storage == Storage::parameter) v.network = "unet", v.group = 3;
    net.graph.layer = net.graph.block = "";
    net.end(y);
    const Graph backward = gradients(net.graph, net.loss);
    for (const Graph& graph : {backward, fuse(backward), fuse(backward, {.lora = true, .geglu = true, .weight_grads = true})}) {
      for (const Node& node : graph.nodes) {
        const bool of_loss = std::holds_alternative<MseLoss>(node.op) || std::holds_alternative<MseLossGrad>(node.op);
        EXPECT(node.layer == (of_loss ? "" : "a.layer") && node.block == (of_loss ? "" : "a"), name_of(node.op), " is in ", node.layer);
      }
      for (const Value& v : graph.values)
        if (v.storage == Storage::gradient)
          EXPECT(v.network == "unet" && v.group == 3, v.name, " is of ", v.network, ", group ", int{v.group});
    }
  });
}

}  // namespace lorafuse::test
