/**
 * LoRA files for `generate`: kohya's layout and diffusers' / PEFT's, several stacked into one.
 * Layouts: kohya-ss/sd-scripts:networks/lora.py; huggingface/diffusers:src/diffusers/loaders/lora_pipeline.py, utils/state_dict_utils.py.
 */

import { LorafuseError } from '../errors.js'
import { readHeader, readTensors, type Tensor } from '../files/safetensors.js'
import type { AdaptableModule, AdapterSpec } from '../native.js'
import { kohyaName } from './adapters.js'

/** One layer's part of a file: down `[rank, in]`, up `[out, rank]`. */
export interface LoraLayer {
  rank: number
  /** alpha / rank. */
  scale: number
  down: Float32Array
  up: Float32Array
}

/** By diffusers' module path. */
export type Lora = Map<string, LoraLayer>

type Role = 'down' | 'up' | 'alpha'

interface Key {
  /** Module path with `_` for `.`. */
  layer: string
  role: Role
}

const ROLES: Record<string, Role> = { lora_down: 'down', lora_A: 'down', 'lora.down': 'down', lora_up: 'up', lora_B: 'up', 'lora.up': 'up' }
const KOHYA = /^lora_unet_(.+?)\.(?:(lora_down|lora_up)\.weight|(alpha))$/
const PEFT = /^(?:unet|base_model\.model)\.(.+?)\.(lora_A|lora_B|lora\.down|lora\.up)(?:\.default)?\.weight$/

function parseKey(name: string): Key | undefined {
  const [, layer, matrix, alpha] = KOHYA.exec(name) ?? PEFT.exec(name) ?? []
  if (layer === undefined) return undefined
  return { layer: layer.replaceAll('.', '_'), role: alpha ? 'alpha' : (ROLES[matrix as string] as Role) }
}

function unsupported(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('LORA_UNSUPPORTED', `Expected ${expected} in the LoRA ${path} but received ${received}`)
}

/** alpha / rank of every layer of a PEFT file, which only its metadata tells; without it 1. */
function peftScale(metadata: Record<string, string>, path: string): (layer: string) => number {
  const text = metadata.lora_adapter_metadata
  if (text === undefined) return () => 1
  let config: Record<string, unknown>
  try {
    config = JSON.parse(text) as Record<string, unknown>
  } catch {
    throw unsupported(path, 'JSON for lora_adapter_metadata', 'something else')
  }
  const rank = config['unet.r'] ?? config.r
  const alpha = config['unet.lora_alpha'] ?? config.lora_alpha
  if (rank === undefined || alpha === undefined) return () => 1
  for (const key of ['rank_pattern', 'alpha_pattern'] as const) {
    const pattern = config[`unet.${key}`] ?? config[key]
    if (pattern && Object.keys(pattern).length > 0) throw unsupported(path, 'one rank and alpha for all layers', `a ${key}`)
  }
  if (config['unet.use_rslora'] ?? config.use_rslora) return () => Number(alpha) / Math.sqrt(Number(rank))
  return () => Number(alpha) / Number(rank)
}

/** The matrix as its layer takes it; a 1×1 kernel of a convolution is dropped. */
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
 * Reads a LoRA of the UNet whose layers are `modules`. Throws `FILE_NOT_FOUND`, `SAFETENSORS_INVALID`, `LORA_UNSUPPORTED` (layers or
 * kinds of adapter that are not applied here, such as the text encoder's), `LORA_MISMATCH` (made for another model).
 */
export async function readLora(path: string, modules: AdaptableModule[]): Promise<Lora> {
  const header = await readHeader(path)
  const byLayer = new Map(modules.map((module) => [module.path.replaceAll('.', '_'), module]))
  const parts = new Map<AdaptableModule, Partial<Record<Role, string>>>()
  for (const { name } of header.tensors) {
    const key = parseKey(name)
    if (!key) throw unsupported(path, 'LoRA matrices of the UNet alone', `the tensor ${name}`)
    const module = byLayer.get(key.layer)
    if (!module) throw new LorafuseError('LORA_MISMATCH', `Expected layers of the model in the LoRA ${path} but received ${name}`)
    const found = parts.get(module) ?? {}
    found[key.role] = name
    parts.set(module, found)
  }
  if (parts.size === 0) throw unsupported(path, 'LoRA matrices', 'none')
  const tensors = await readTensors(path, undefined, header)
  const byMetadata = peftScale(header.metadata, path)
  const lora: Lora = new Map()
  for (const [module, { down: downName = '', up: upName = '', alpha }] of parts) {
    const name = kohyaName(module.path)
    const down = matrix(tensors.get(downName), downName || name, undefined, module.inFeatures, path)
    const rank = down.shape[0] as number
    const up = matrix(tensors.get(upName), upName || name, module.outFeatures, rank, path)
    const scale = alpha === undefined ? byMetadata(module.path) : (tensors.get(alpha)?.data[0] || rank) / rank
    lora.set(module.path, { rank, scale, down: down.data, up: up.data })
  }
  return lora
}

/** Adapters and the flat buffer to write into a session. */
export interface Stack {
  specs: AdapterSpec[]
  weights: Float32Array
}

/** Several LoRAs, each times its weight, as one: their ranks side by side, scales and weights taken into up. */
export function stackLoras(loras: { lora: Lora; weight: number }[], modules: AdaptableModule[]): Stack {
  const specs: AdapterSpec[] = []
  const chunks: Float32Array[] = []
  for (const { path, outFeatures } of modules) {
    const layers = loras.flatMap(({ lora, weight }) => {
      const layer = weight === 0 ? undefined : lora.get(path)
      return layer ? [{ ...layer, scale: layer.scale * weight }] : []
    })
    const rank = layers.reduce((sum, layer) => sum + layer.rank, 0)
    if (rank === 0) continue
    specs.push({ path, rank, scale: 1 })
    const up = new Float32Array(outFeatures * rank)
    let column = 0
    for (const layer of layers) {
      chunks.push(layer.down)
      for (let row = 0; row < outFeatures; row++) {
        for (let r = 0; r < layer.rank; r++) up[row * rank + column + r] = layer.scale * (layer.up[row * layer.rank + r] as number)
      }
      column += layer.rank
    }
    chunks.push(up)
  }
  const weights = new Float32Array(chunks.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const chunk of chunks) {
    weights.set(chunk, at)
    at += chunk.length
  }
  return { specs, weights }
}
