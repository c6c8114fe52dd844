/** Optimizers, one row each: the spec for `native/graph/optimizers.h` and the name in kohya's metadata. */
import type { OptimizerSpec } from '../native.js'

export interface Optimizer {
  spec: OptimizerSpec
  /** Returns kohya's `ss_optimizer`. */
  title(options: { weightDecay: number }): string
}

/** Loshchilov and Hutter, arXiv:1711.05101, with PyTorch's defaults. */
export const adamw: Optimizer = {
  spec: { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
  title: ({ weightDecay }) => `torch.optim.adamw.AdamW(weight_decay=${weightDecay})`,
}
