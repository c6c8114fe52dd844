/** Optimizers, one row each: the spec for `native/graph/optimizers.h` and the name in kohya's metadata. */
import type { OptimizerSpec } from '../native.js'
import { float } from './python.js'

export interface Optimizer {
  spec: OptimizerSpec
  /** Returns kohya's `ss_optimizer`. */
  title(options: { weightDecay: number }): string
}

export const optimizers = {
  /** Loshchilov and Hutter, arXiv:1711.05101, with PyTorch's defaults. */
  adamw: {
    spec: { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    title: ({ weightDecay }) => `torch.optim.adamw.AdamW(weight_decay=${float(weightDecay)})`,
  },
} satisfies Record<string, Optimizer>
