/** Reads a LoRA file of either layout, kohya's or diffusers' and PEFT's. */
import { LorafuseError } from '../errors.js'
import { readHeader, readTensors, type Tensor } from '../files/safetensors.js'
import type { Layer } from '../native.js'
import { kohyaLayer, type Prefixes, parseKohyaName } from './kohya.js'
import { parsePeftName, peftScale, unsupported } from './peft.js'

/** One layer's part of a file: down `[rank, in]`, up `[out, rank]`. */
export interface LoraLayer {
  rank: number
  /** alpha / rank. */
  scale: number
  down: Float32Array
  up: Float32Array
}

/** By the layers' paths. */
export type Lora = Map<string, LoraLayer>

/** Checks a matrix against its layer; the 1×1 kernel of a convolution is ignored. */
function matrix(tensor: Tensor | undefined, name: string, rows: number | undefined, columns: number | undefined, path: string): Tensor {
  if (!tensor) throw unsupported(path, `both matrices of ${name}`, 'one')
  const { shape } = tensor
  const flat = shape.length === 2 || (shape.length === 4 && shape[2] === 1 && shape[3] === 1)
  if (!flat || (rows ?? shape[0]) !== shape[0] || (columns ?? shape[1]) !== shape[1]) {
    const wanted = `[${rows ?? 'rank'}, ${columns ?? 'rank'}]`
    throw new LorafuseError(
      'LORA_MISMATCH',
      `Expected ${wanted} for ${name} in the LoRA ${path} but received [${shape.join(', ')}]; it is of another model`,
    )
  }
  return tensor
}

/**
 * Reads a LoRA for a network with these layers. Throws `FILE_NOT_FOUND`, `SAFETENSORS_INVALID`, `LORA_UNSUPPORTED` (it has layers of
 * another network, or is another kind of adapter), `LORA_MISMATCH` (made for another model).
 */
export async function readLora(path: string, network: string, layers: Layer[], prefixes: Prefixes): Promise<Lora> {
  const header = await readHeader(path)
  const byName = new Map(layers.map((layer) => [layer.path.replaceAll('.', '_'), layer]))
  const parts = new Map<Layer, Record<string, string>>()
  for (const { name } of header.tensors) {
    const parsed = parseKohyaName(prefixes, name) ?? parsePeftName(name)
    if (parsed?.network !== network) throw unsupported(path, 'LoRA matrices of the UNet alone', `the tensor ${name}`)
    const layer = byName.get(parsed.layer)
    if (!layer) throw new LorafuseError('LORA_MISMATCH', `Expected layers of the model in the LoRA ${path} but received ${name}`)
    parts.set(layer, { ...parts.get(layer), [parsed.role]: name })
  }
  if (parts.size === 0) throw unsupported(path, 'LoRA matrices', 'none')
  const tensors = await readTensors(path, undefined, header)
  const byMetadata = peftScale(header.metadata, network, path)
  const lora: Lora = new Map()
  for (const [layer, names] of parts) {
    const part = (role: string, rows?: number, columns?: number) => {
      const name = names[role] ?? kohyaLayer(prefixes, network, layer.path)
      return matrix(tensors.get(name), name, rows, columns, path)
    }
    const down = part('down', undefined, layer.inFeatures)
    const rank = down.shape[0] as number
    const up = part('up', layer.outFeatures, rank)
    const alpha = names.alpha === undefined ? undefined : tensors.get(names.alpha)?.data[0] || rank
    lora.set(layer.path, { rank, scale: alpha === undefined ? byMetadata : alpha / rank, down: down.data, up: up.data })
  }
  return lora
}
