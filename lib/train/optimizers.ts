/** Optimizers: what the native side is told, and what kohya's metadata calls them. One row each, beside `native/graph/optimizers.h`. */
import type { OptimizerSpec } from '../native.js'

export interface Optimizer {
  spec: OptimizerSpec
  /** `ss_optimizer`. */
  title(options: { weightDecay: number }): string
}

/** Loshchilov and Hutter, arXiv:1711.05101; the numbers are PyTorch's defaults. */
export const adamw: Optimizer = {
  spec: { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
  title: ({ weightDecay }) => `torch.optim.adamw.AdamW(weight_decay=${weightDecay})`,
}
