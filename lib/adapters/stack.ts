/** Stacks several LoRAs, each times its weight, to one: their ranks side by side, scales and weights multiplied into up. */
import type { AdapterSpec, Layer, Parameter } from '../native.js'
import { parameterCount, parameterViews } from './adapter.js'
import type { Lora, LoraLayer } from './read.js'

/** A LoRA and how strongly it is applied. */
export interface WeightedLora {
  lora: Lora
  weight: number
}

/** Returns the LoRAs' parts at a layer, with the weights multiplied into their scales. */
function partsAt(loras: WeightedLora[], path: string): LoraLayer[] {
  return loras.flatMap(({ lora, weight }) => {
    const layer = weight === 0 ? undefined : lora.get(path)
    return layer ? [{ ...layer, scale: layer.scale * weight }] : []
  })
}

/** Returns the adapters to attach. */
export function stackSpecs(loras: WeightedLora[], network: string, layers: Layer[]): AdapterSpec[] {
  return layers.flatMap(({ path }): AdapterSpec[] => {
    const rank = partsAt(loras, path).reduce((sum, part) => sum + part.rank, 0)
    return rank === 0 ? [] : [{ network, path, kind: 'lora', rank, scale: 1, group: 0 }]
  })
}

/** Fills the buffer `weights` of the parameters that attaching returned. */
export function stackWeights(loras: WeightedLora[], parameters: Parameter[]): Float32Array {
  const flat = new Float32Array(parameterCount(parameters))
  for (const { path, role, shape, data } of parameterViews(parameters, flat)) {
    const [rows = 0, columns = 0] = shape
    let at = 0
    for (const { rank, scale, down, up } of partsAt(loras, path)) {
      if (role === 'down') data.set(down, at * columns)
      else for (let i = 0; i < rows * rank; i++) data[Math.floor(i / rank) * columns + at + (i % rank)] = scale * (up[i] as number)
      at += rank
    }
  }
  return flat
}
