/**
 * LoRA: W x + alpha / rank · up (down x), down `[rank, in]`, up `[out, rank]` (arXiv:2106.09685). At a kernel of k × k, down is one, too:
 * `[k·k, rank, in]`, in files `[rank, in, k, k]` (LoCon, kohya-ss/sd-scripts:networks/lora.py).
 */
import { LorafuseError, shown } from '../errors.js'
import { allFinite } from '../files/floats.js'
import type { Tensor } from '../files/safetensors.js'
import type { Layer } from '../native.js'
import { asIs } from '../options/resolve.js'
import { uniform } from '../random.js'
import { inPieces } from '../turns.js'
import { type AdapterKind, type AdapterOptions, alphaOf, type FilePart, heeded, invalidLora, shownName, unsupported } from './adapter.js'

/** One layer's LoRA in a file; `down` in the order of the session. */
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

/** Layers outside of the transformers: kohya's rule, where convolutions are adapted. */
const CONVOLUTIONS = /\.(resnets|downsamplers|upsamplers)\./

/** In a text encoder, every layer that is listed, as in kohya: q, k, v, out, fc1, fc2. */
const TEXT = /^text_model\.encoder\./

/** Returns the rank of a layer. */
function rankOf({ rank, convRank = rank }: AdapterOptions, layer: Layer): number {
  return heeded(layer, rank, convRank)
}

/** Returns one of a layer's matrices after checking its shape and values; the 1×1 kernel of a convolution is ignored. */
function matrix({ path, names, tensors, family }: FilePart, role: string, rows: number | undefined, columns: number, kernel = 1): Tensor {
  const name = names[role]
  if (name === undefined) throw unsupported(path, `both matrices beside ${shownName(Object.values(names)[0]!)}`, 'not both')
  const tensor = tensors.get(name)!
  const { shape, data } = tensor
  const flat = (shape.length === 2 && kernel === 1) || (shape.length === 4 && shape[2] === kernel && shape[3] === kernel)
  if (!flat || (rows ?? shape[0]) !== shape[0] || columns !== shape[1]) {
    const wanted = `[${[rows ?? 'rank', columns, ...(kernel > 1 ? [kernel, kernel] : [])].join(', ')}]`
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

/** Returns `[taps, rows, columns]` of a parameter; a matrix is one tap. */
function tapsOf(shape: number[]): [taps: number, rows: number, columns: number] {
  const [rows = 0, columns = 0] = shape.slice(-2)
  return [shape.length === 3 ? (shape[0] as number) : 1, rows, columns]
}

export const lora: AdapterKind<LoraPart> = {
  carries: ({ path }) => TARGETS.default.test(path) || CONVOLUTIONS.test(path) || TEXT.test(path),

  specs(network, layers, options, label = asIs) {
    const { targets, convRank } = options
    const isChosen = ({ path }: Layer) =>
      TARGETS[targets].test(path) || TEXT.test(path) || (convRank !== undefined && CONVOLUTIONS.test(path))
    const selected = layers.filter(isChosen)
    for (const layer of selected) {
      const { path, inFeatures, outFeatures, kernel } = layer
      const [rank, inputs] = [rankOf(options, layer), inFeatures * kernel ** 2]
      const most = Math.min(inputs, outFeatures)
      if (rank <= most) continue
      const name = label(heeded(layer, 'rank', 'convRank'))
      throw new LorafuseError(
        'RANK_TOO_LARGE',
        `Expected at most ${most} for ${name}, as ${path} is ${outFeatures} × ${inputs}, but received ${rank}`,
      )
    }
    return selected.map((layer) => {
      const rank = rankOf(options, layer)
      return { network, path: layer.path, kind: 'lora', rank, scale: alphaOf(options, layer) / rank, group: 0 }
    })
  },

  /** down is uniform in ±1/√in, of kernels ±1/√(in·k·k), kaiming_uniform with a = √5, and up is zero (kohya-ss/sd-scripts:networks/lora.py). */
  initial(part, { role, shape, index }, seed, first) {
    if (role !== 'down') return
    const [taps, , inFeatures] = tapsOf(shape)
    const bound = 1 / Math.sqrt(taps * inFeatures)
    const drawn = uniform({ seed, stream: 'adapters', index }, part.length, first)
    for (const [i, value] of drawn.entries()) part[i] = (2 * value - 1) * bound
  },

  fileShape({ shape }, { kind, kernel }) {
    const [taps, rows, columns] = tapsOf(shape)
    if (taps > 1) return [rows, columns, kernel, kernel]
    return kind === 'conv' ? [rows, columns, 1, 1] : shape
  },

  reorders: ({ shape }) => tapsOf(shape)[0] > 1,

  async reorder({ shape, data }, to, turn) {
    const [taps, rows, columns] = tapsOf(shape)
    const matrix = rows * columns
    await inPieces(data.length, turn, (begin, end) => {
      for (let i = begin; i < end; i++) to[i] = data[(i % taps) * matrix + Math.floor(i / taps)] as number
    })
  },

  bakedScale: ({ role, shape }, alpha) => (role === 'up' ? alpha / (shape.at(-1) as number) : 1),

  read(part) {
    const { inFeatures, outFeatures, kernel } = part.layer
    const down = matrix(part, 'down', undefined, inFeatures, kernel)
    const rank = down.shape[0] as number
    const up = matrix(part, 'up', outFeatures, rank)
    const [taps, count] = [kernel ** 2, rank * inFeatures]
    // Taps come first in the session.
    const data = taps === 1 ? down.data : down.data.map((_, i, all) => all[(i % count) * taps + Math.floor(i / count)] as number)
    return { rank, scale: scaleOf(part, rank), down: data, up: up.data }
  },

  /** Ranks add up. */
  stackSpec: (network, { path }, parts) => {
    return { network, path, kind: 'lora', rank: parts.reduce((sum, { part }) => sum + part.rank, 0), scale: 1, group: 0 }
  },

  /** Matrices lie side by side, at each tap; scales and weights are multiplied into up. */
  async stack({ role, shape, data }, parts, turn) {
    const [taps, rows, columns] = tapsOf(shape)
    let at = 0
    for (const { part, weight } of parts) {
      const { rank, down, up } = part
      const scale = part.scale * weight
      const begins = at
      const fill = (begin: number, end: number) => {
        for (let i = begin; i < end; i++) data[Math.floor(i / rank) * columns + begins + (i % rank)] = scale * (up[i] as number)
      }
      const size = rank * columns
      if (role === 'down')
        for (let tap = 0; tap < taps; tap++) data.set(down.subarray(tap * size, (tap + 1) * size), (tap * rows + at) * columns)
      else await inPieces(up.length, turn, fill)
      at += rank
    }
  },
}
