/** Which layers carry a LoRA, what it starts from, and the flat buffer that the native side trains. */
import { LorafuseError } from '../errors.js'
import type { NamedTensor } from '../files/safetensors.js'
import type { AdaptableModule, AdapterSpec } from '../native.js'
import { uniform } from '../random.js'

export type Targets = 'default' | 'attention'

/** A layer's LoRA: W x + alpha / rank · up (down x), down `[rank, in]`, up `[out, rank]`. */
export interface Adapter {
  module: AdaptableModule
  rank: number
  alpha: number
}

const ATTENTION = /\.attn[12]\.to_(q|k|v|out\.0)$/

/** kohya's name of a layer's LoRA (kohya-ss/sd-scripts:networks/lora.py). */
export function kohyaName(path: string): string {
  return `lora_unet_${path.replaceAll('.', '_')}`
}

/** The adapters to train, in the model's order. Throws `RANK_TOO_LARGE` naming the first layer that cannot have that rank. */
export function selectAdapters(modules: AdaptableModule[], targets: Targets, rank: number, alpha: number): Adapter[] {
  const selected = modules.filter(({ path }) => targets === 'default' || ATTENTION.test(path))
  for (const { path, inFeatures, outFeatures } of selected) {
    const most = Math.min(inFeatures, outFeatures)
    if (rank > most) {
      throw new LorafuseError(
        'RANK_TOO_LARGE',
        `Expected at most ${most} for rank, as ${path} is ${outFeatures} × ${inFeatures}, but received ${rank}`,
      )
    }
  }
  return selected.map((module) => ({ module, rank, alpha }))
}

export function adapterSpecs(adapters: Adapter[]): AdapterSpec[] {
  return adapters.map(({ module, rank, alpha }) => ({ path: module.path, rank, scale: alpha / rank }))
}

/** Where each adapter's matrices lie in the flat buffer, as views of it; in order, down before up. */
export function* matrices(adapters: Adapter[], flat: Float32Array): Generator<{ adapter: Adapter; down: Float32Array; up: Float32Array }> {
  let at = 0
  for (const adapter of adapters) {
    const { module, rank } = adapter
    const middle = at + rank * module.inFeatures
    const end = middle + module.outFeatures * rank
    yield { adapter, down: flat.subarray(at, middle), up: flat.subarray(middle, end) }
    at = end
  }
}

/** How many numbers train. */
export function parameterCount(adapters: Adapter[]): number {
  return adapters.reduce((sum, { module, rank }) => sum + rank * (module.inFeatures + module.outFeatures), 0)
}

/**
 * The flat buffer before the first step: down uniform within ±1/√in, which is kaiming_uniform with a = √5, up zero
 * (kohya-ss/sd-scripts:networks/lora.py).
 */
export function initialAdapters(adapters: Adapter[], seed: number): Float32Array {
  const flat = new Float32Array(parameterCount(adapters))
  let index = 0
  for (const { adapter, down } of matrices(adapters, flat)) {
    const bound = 1 / Math.sqrt(adapter.module.inFeatures)
    down.set(uniform({ seed, stream: 'adapters', index }, down.length).map((value) => (2 * value - 1) * bound))
    index += 1
  }
  return flat
}

/** The tensors of a kohya file; those of a 1×1 convolution are 4-D. */
export function adapterTensors(adapters: Adapter[], flat: Float32Array, dtype: NamedTensor['dtype']): NamedTensor[] {
  const tensors: NamedTensor[] = []
  for (const { adapter, down, up } of matrices(adapters, flat)) {
    const { module, rank, alpha } = adapter
    const name = kohyaName(module.path)
    const kernel = module.kind === 'conv' ? [1, 1] : []
    tensors.push(
      { name: `${name}.lora_down.weight`, dtype, shape: [rank, module.inFeatures, ...kernel], data: down },
      { name: `${name}.lora_up.weight`, dtype, shape: [module.outFeatures, rank, ...kernel], data: up },
      { name: `${name}.alpha`, dtype, shape: [], data: Float32Array.of(alpha) },
    )
  }
  return tensors
}
