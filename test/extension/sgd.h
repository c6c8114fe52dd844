// An optimizer that only this folder knows: graph/optimizers.h includes this file (LORAFUSE_EXTRA_OPTIMIZERS).
//   sgd_cpu.cc  CPU kernel.  A CUDA backend would need a Rule<Sgd> in cuda/optimizers.cu.
// torch.optim.SGD: v = momentum · v + g;  p −= lr · (v + λ · p), here with decay apart from the momentum.
struct Sgd {
  static constexpr const char* name = "sgd";
  double momentum = 0.9;

  explicit Sgd(const Config& numbers) : momentum(numbers.real("momentum")) {}
  static std::vector<BufferSpec> buffers(int64_t count) { return {{"velocity", DType::f32, count}}; }
};
using ExtraOptimizer = Sgd;
