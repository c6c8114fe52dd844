/** LoRA: W x + alpha / rank · up (down x), down `[rank, in]`, up `[out, rank]` (arXiv:2106.09685). */
import { LorafuseError } from '../errors.js'
import { uniform } from '../random.js'
import type { AdapterKind, AdapterOptions } from './adapter.js'

/** The paths that get a LoRA; by default, as in kohya, every layer of the transformers. */
const TARGETS: Record<AdapterOptions['targets'], RegExp> = {
  default: /\.attentions\./,
  attention: /\.attn[12]\.to_(q|k|v|out\.0)$/,
}

export const lora: AdapterKind = {
  specs(network, layers, { targets, rank, alpha }) {
    const selected = layers.filter(({ path }) => TARGETS[targets].test(path))
    for (const { path, inFeatures, outFeatures } of selected) {
      const most = Math.min(inFeatures, outFeatures)
      if (rank <= most) continue
      throw new LorafuseError(
        'RANK_TOO_LARGE',
        `Expected at most ${most} for rank, as ${path} is ${outFeatures} × ${inFeatures}, but received ${rank}`,
      )
    }
    return selected.map(({ path }) => ({ network, path, kind: 'lora', rank, scale: alpha / rank, group: 0 }))
  },

  /** down is uniform in ±1/√in, kaiming_uniform with a = √5, and up is zero (kohya-ss/sd-scripts:networks/lora.py). */
  initial(role, [rank = 0, inFeatures = 0], seed, index) {
    if (role !== 'down') return undefined
    const bound = 1 / Math.sqrt(inFeatures)
    const drawn = uniform({ seed, stream: 'adapters', index }, rank * inFeatures)
    return Float32Array.from(drawn, (value) => (2 * value - 1) * bound)
  },

  fileShape: (shape, { kind }) => (kind === 'conv' ? [...shape, 1, 1] : shape),
}
