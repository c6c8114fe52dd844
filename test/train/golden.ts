/** Reads a golden (`scripts/goldens/make.py`), sets a session up on its model and compares tensors with it. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parameterCount, parameterViews } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/lora.js'
import type { Computation } from '../../lib/device.js'
import { readHeader, readTensors } from '../../lib/files/safetensors.js'
import { openSession as open } from '../../lib/models/model.js'
import { readModel } from '../../lib/models/read.js'
import { type Inputs, native, type Parameter, type Session, type SessionOptions, type Tensor, type UpdateInput } from '../../lib/native.js'
import { optimizers } from '../../lib/train/optimizers.js'
import { pattern } from './pattern.js'

export const root = fileURLToPath(new URL('../../../', import.meta.url))

/** `scripts/goldens/reference.py`, class Case. */
export interface Case {
  rank: number
  alpha: number
  deviation: number
  latents: [number, number, number]
  pixels: [number, number, number]
  steps: number
  learning_rate: number
  weight_decay: number
  max_grad_norm: number
  epsilon: number
  /** Of whole models: of kernels larger than 1×1. */
  conv_rank?: number
  conv_alpha?: number
  /** Learning rates of the text encoders, in order. */
  text_rates?: number[]
}

interface About {
  unet_sha256: string
  case: Case
  naive_f32_error: Record<string, number>
  naive_f16_error: Record<string, number>
}

export interface Golden {
  name: string
  model: string
  case: Case
  /** Largest relative error of PyTorch in f32, and in mixed precision (in bf16: scripts/goldens/bf16.py), against the f64 that is stored, by group of tensors. */
  naive: Record<Place['computes'], Record<string, number>>
  has(name: string): boolean
  tensor(name: string): Float32Array
}

export type Targets = 'attention' | 'default'

/** `model`: a folder, from the project's root. Throws if its UNet is not the one the golden was made from. */
export async function readGolden(name: string, model: string): Promise<Golden> {
  const path = `${root}test/fixtures/${name}/golden.safetensors`
  const about = JSON.parse((await readHeader(path)).metadata.golden ?? '{}') as About
  const folder = resolve(root, model)
  const unet = await readFile(`${folder}/unet/diffusion_pytorch_model.safetensors`)
  assert.equal(
    createHash('sha256').update(unet).digest('hex'),
    about.unet_sha256,
    `test/fixtures/${name}/golden.safetensors was made from another UNet than the one now in ${model}: run npm run goldens`,
  )
  const tensors = await readTensors(path)
  const bf16 = JSON.parse(await readFile(`${root}test/fixtures/golden-bf16.json`, 'utf8')) as Record<string, Record<string, number>>
  return {
    name,
    model: folder,
    case: about.case,
    naive: { f32: about.naive_f32_error, fp16: about.naive_f16_error, bf16: bf16[name] ?? {} },
    has: (key) => tensors.has(key),
    tensor: (key) => {
      const found = tensors.get(key)
      assert(found, `${path} has no tensor ${key}: run npm run goldens`)
      return found.data
    },
  }
}

/** Where the golden is checked, and in what it computes there. */
export interface Place {
  title: string
  device: SessionOptions['device']
  computes: 'f32' | 'fp16' | 'bf16'
}

/** The CPU; the GPU instead where a backend for one is named, as test/gpu/golden.test.ts does. */
export const place: Place = process.env.LORAFUSE_CUDA_LIBRARY
  ? { title: 'on a gpu in fp16', device: 'cuda', computes: 'fp16' }
  : { title: 'on the CPU', device: 'cpu', computes: 'f32' }
/** The same, and on the CPU bf16 where it multiplies that. */
export const places: Place[] =
  place.device === 'cpu' && native().info().cpuBf16 !== native().info().cpu
    ? [place, { title: 'on the CPU in bf16', device: 'cpu', computes: 'bf16' }]
    : [place]
/** As `Reference` in mixed precision. */
export const lossScale = place.computes === 'fp16' ? 1024 : 1

/** `parameters` in order, as views of a flat buffer: of each its name, after its network's if that is not the UNet, and values. */
export function named(parameters: Parameter[], flat: Float32Array): [string, Float32Array][] {
  const nameOf = ({ network, name }: Parameter) => (network === 'unet' ? name : `${network}.${name}`)
  return parameterViews(parameters, flat).map(({ data }, i) => [nameOf(parameters[i]!), data])
}

export async function openSession(golden: Golden, { device, computes }: Place, more: Partial<Computation> = {}): Promise<Session> {
  return open(await readModel(golden.model), { device, threads: 2, precision: computes, ...more })
}

/** What has adapters beside the UNet's transformers: its convolutions, and text encoders, each of which is a group of the optimizer. */
interface More {
  convolutions?: boolean
  texts?: string[]
}

/** Attaches adapters whose down and up are both drawn from their names. */
export function attach(session: Session, golden: Golden, targets: Targets, { convolutions = false, texts = [] }: More = {}): Parameter[] {
  const { rank, alpha, deviation, epsilon, conv_rank: convRank, conv_alpha: convAlpha } = golden.case
  const options = { targets, rank, alpha, ...(convolutions && { convRank, convAlpha }) }
  const specs = ['unet', ...texts].flatMap((network, group) =>
    lora.specs(network, session.layers(network), options).map((spec) => ({ ...spec, group })),
  )
  const parameters = session.attach(specs, { ...optimizers.adamw.spec, epsilon })
  const weights = new Float32Array(parameterCount(parameters))
  for (const [name, data] of named(parameters, weights)) data.set(pattern(name, data.length, deviation))
  session.write('weights', weights)
  return parameters
}

export const tensor = (shape: number[], data: Float32Array): Tensor<Float32Array> => ({ shape, data })

/** The golden's text states, or another context of the same size, as an input. */
export function contextOf(golden: Golden, data = golden.tensor('text_skip_0')): Tensor<Float32Array> {
  const [n] = golden.case.latents
  return tensor([n, 77, data.length / (n * 77)], data)
}

/** The halves of an array in the other order. */
export function swapped<Data extends Float32Array | Int32Array>(data: Data): Data {
  const half = data.length / 2
  const copy = data.slice() as Data
  copy.set(data.subarray(half))
  copy.set(data.subarray(0, half), half)
  return copy
}

/** The same inputs as `Reference.losses` of step `step`. */
export function stepInputs(golden: Golden, step: number): Inputs {
  const context = golden.tensor('text_skip_0')
  return { ...drawnInputs(golden, step), context: contextOf(golden, step % 2 === 0 ? context : swapped(context)) }
}

/** Those that are no text; what is learned is ε. */
export function drawnInputs(golden: Golden, step: number): Inputs {
  const [n, h, w] = golden.case.latents
  const drawn = (what: string) => tensor([n, h, w, 4], pattern(`${what} of step ${step}`, n * h * w * 4))
  return {
    latents: drawn('latents'),
    noise: drawn('noise'),
    coefficients: tensor([n, 2], golden.tensor(`coefficients/${step}`)),
    target_coefficients: tensor(
      [n, 2],
      Float32Array.from({ length: 2 * n }, (_, i) => i % 2),
    ),
    timesteps: tensor([n], golden.tensor(`timesteps/${step}`)),
  }
}

/** Losses of a batch whose mean is differentiated, times the scale; the gradients are added to those that are there, for an update if any. */
export async function train(session: Session, inputs: Inputs, lossScale = 1, update?: UpdateInput): Promise<Float32Array> {
  const [n = 0] = inputs.timesteps!.shape
  await session.load(inputs)
  await session.step(new Float32Array(n).fill(lossScale / n), update)
  return session.losses()
}

/** ‖value − truth‖ / ‖truth‖ */
export function relativeError(value: Float32Array, truth: Float32Array): number {
  if (value.length !== truth.length) return Number.NaN
  let difference = 0
  let norm = 0
  truth.forEach((expected, i) => {
    difference += ((value[i] ?? Number.NaN) - expected) ** 2
    norm += expected ** 2
  })
  return Math.sqrt(difference / norm)
}

/**
 * Largest relative error of any one tensor of a group. In f32: 1e-5, more where PyTorch's own f32 is not that near to f64, never above 1e-4.
 * In fp16 and bf16: twice what PyTorch's mixed precision is off; of what is computed in f32 there too (the VAE in fp16), as in f32.
 */
export function limit({ naive }: Golden, { computes }: Place, group: string): number {
  const single = Math.min(1e-4, Math.max(1e-5, 4 * (naive.f32[group] ?? 0)))
  if (computes === 'f32') return single
  // Two losses may be near by luck: all that there are tell how far off one is.
  const groups = group.includes('losses') ? Object.keys(naive[computes]).filter((name) => name.includes('losses')) : [group]
  return Math.max(single, ...groups.map((name) => 2 * (naive[computes][name] ?? 0)))
}

/** Fails with every tensor that is off, worst first; returns the largest error. */
export function compare(golden: Golden, place: Place, group: string, values: Iterable<[string, Float32Array]>): number {
  const errors = [...values].map(([name, value]) => ({ name, error: relativeError(value, golden.tensor(name)) }))
  const bad = errors.filter(({ error }) => !(error <= limit(golden, place, group))).sort((a, b) => b.error - a.error)
  const list = bad.slice(0, 12).map(({ name, error }) => `  ${name}: relative error ${error.toExponential(1)}`)
  assert(bad.length === 0, `${bad.length} of ${errors.length} tensors differ from the golden:\n${list.join('\n')}`)
  return Math.max(...errors.map(({ error }) => error))
}
