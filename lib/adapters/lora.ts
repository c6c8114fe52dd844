/** LoRA: W x + alpha / rank · up (down x), down `[rank, in]`, up `[out, rank]` (arXiv:2106.09685). */
import { LorafuseError, shown } from '../errors.js'
import { allFinite } from '../files/floats.js'
import type { Tensor } from '../files/safetensors.js'
import { uniform } from '../random.js'
import { inPieces } from '../turns.js'
import { type AdapterKind, type AdapterOptions, type FilePart, invalidLora, shownName, unsupported } from './adapter.js'

/** One layer's LoRA in a file. */
export interface LoraPart {
  rank: number
  /** alpha / rank. */
  scale: number
  down: Float32Array
  up: Float32Array
}

/** The paths that get a LoRA; by default, as in kohya, every layer of the transformers. */
const TARGETS: Record<AdapterOptions['targets'], RegExp> = {
  default: /\.attentions\./,
  attention: /\.attn[12]\.to_(q|k|v|out\.0)$/,
}

/** Returns one of a layer's matrices after checking its shape and values; the 1×1 kernel of a convolution is ignored. */
function matrix({ path, names, tensors, family }: FilePart, role: string, rows: number | undefined, columns: number): Tensor {
  const name = names[role]
  if (name === undefined) throw unsupported(path, `both matrices beside ${shownName(Object.values(names)[0]!)}`, 'not both')
  const tensor = tensors.get(name)!
  const { shape, data } = tensor
  const flat = shape.length === 2 || (shape.length === 4 && shape[2] === 1 && shape[3] === 1)
  if (!flat || (rows ?? shape[0]) !== shape[0] || columns !== shape[1]) {
    const wanted = `[${rows ?? 'rank'}, ${columns}]`
    const made = family === undefined ? 'it is of another model' : `it is of another model, ${family}`
    throw new LorafuseError(
      'LORA_MISMATCH',
      `Expected ${wanted} for ${shownName(name)} in the LoRA ${path} but received ${shown(shape)}; ${made}`,
    )
  }
  if (shape[0] === 0 || columns === 0) throw invalidLora(path, 'a rank of 1 or more', `${shown(shape)} for ${shownName(name)}`)
  if (!allFinite(data))
    throw invalidLora(path, 'finite numbers', `NaN or infinity for ${shownName(name)}; its training failed, use an earlier file`)
  return tensor
}

/** Returns alpha / rank: from the tensor alpha, where 0 means the rank, or from PEFT's config; without both it is 1. */
function scaleOf({ path, names, tensors, config }: FilePart, rank: number): number {
  if (names.alpha !== undefined) {
    const { data } = tensors.get(names.alpha)!
    const [alpha] = data
    if (alpha === undefined || data.length > 1 || !Number.isFinite(alpha)) {
      throw invalidLora(
        path,
        `one finite number for ${shownName(names.alpha)}`,
        shown(data.length === 1 ? alpha : [...data.subarray(0, 9)]),
      )
    }
    return (alpha || rank) / rank
  }
  if (config === undefined) return 1
  if (config.rank !== rank)
    throw invalidLora(path, `rank ${config.rank}, as ${config.source} says,`, `${rank} for ${shownName(names.down!)}`)
  return config.scale
}

/** In a text encoder, every layer that is listed, as in kohya: q, k, v, out, fc1, fc2. */
const TEXT = /^text_model\.encoder\./

export const lora: AdapterKind<LoraPart> = {
  carries: ({ path }) => TARGETS.default.test(path) || TEXT.test(path),

  specs(network, layers, { targets, rank, alpha }) {
    const selected = layers.filter(({ path }) => TARGETS[targets].test(path) || TEXT.test(path))
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
  initial(part, { role, shape: [, inFeatures = 0], index }, seed, first) {
    if (role !== 'down') return
    const bound = 1 / Math.sqrt(inFeatures)
    const drawn = uniform({ seed, stream: 'adapters', index }, part.length, first)
    for (const [i, value] of drawn.entries()) part[i] = (2 * value - 1) * bound
  },

  fileShape: (shape, { kind }) => (kind === 'conv' ? [...shape, 1, 1] : shape),

  read(part) {
    const { layer } = part
    const down = matrix(part, 'down', undefined, layer.inFeatures)
    const rank = down.shape[0] as number
    const up = matrix(part, 'up', layer.outFeatures, rank)
    return { rank, scale: scaleOf(part, rank), down: down.data, up: up.data }
  },

  /** Ranks add up. */
  stackSpec: (network, { path }, parts) => {
    return { network, path, kind: 'lora', rank: parts.reduce((sum, { part }) => sum + part.rank, 0), scale: 1, group: 0 }
  },

  /** Matrices lie side by side; scales and weights are multiplied into up. */
  async stack({ role, shape: [, columns = 0], data }, parts, turn) {
    let at = 0
    for (const { part, weight } of parts) {
      const { rank, down, up } = part
      const scale = part.scale * weight
      const begins = at
      const fill = (begin: number, end: number) => {
        for (let i = begin; i < end; i++) data[Math.floor(i / rank) * columns + begins + (i % rank)] = scale * (up[i] as number)
      }
      if (role === 'down') data.set(down, at * columns)
      else await inPieces(up.length, turn, fill)
      at += rank
    }
  },
}
