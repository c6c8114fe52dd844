// A Geglu becomes the gate of the product that made its x, a GegluGrad that of the product that made its dy, which is then never stored.
// It comes after fuse_lora: by then a layer and its adapter are one node.
#include "rewrite.h"

namespace lorafuse {
namespace {

struct GegluFuser : Rewrite {
  using Rewrite::Rewrite;

  // Makes the product whose only y is `v` end in `gate`. Where that is the gradient, nothing else may read y.
  Node* end_in(Gate gate, ValueId v) {
    if (producer[v] < 0 || (gate == Gate::geglu_grad && uses[v] != 1)) return nullptr;
    Node& made = node(producer[v]);
    const bool fits = std::visit(
        [&]<class AnyOp>(AnyOp& op) {
          if constexpr (is_one_of<AnyOp, LoraMatMul, LoraMatMulGrad>)
            if (op.products() != 1) return false;
          if constexpr (is_one_of<AnyOp, MatMul, LoraMatMul, LoraMatMulGrad>) {
            const Epilogue& e = op.epilogue;
            if (made.outputs[0] != v || e.gate != Gate::none || e.residual || (gate == Gate::geglu_grad && e.bias)) return false;
            op.epilogue.gate = gate;
            return true;
          }
          return false;
        },
        made.op);
    return fits ? &made : nullptr;
  }

  void run() {
    for (int i = 0; i < size(); i++) {
      const Node& n = node(i);
      if (as<Geglu>(i)) {
        Node* product = end_in(Gate::geglu, n.inputs[0]);
        if (!product) continue;
        product->outputs.push_back(n.outputs[0]);
        remove(i);
      } else if (as<GegluGrad>(i) && producer[n.inputs[0]] < producer[n.inputs[1]]) {
        Node* product = end_in(Gate::geglu_grad, n.inputs[1]);
        if (!product) continue;
        product->inputs.push_back(n.inputs[0]), product->outputs[0] = n.outputs[0];
        remove(i);
      }
    }
  }
};

}  // namespace

Graph fuse_geglu(Graph graph) { return rewritten<GegluFuser>(std::move(graph)); }

}  // namespace lorafuse
