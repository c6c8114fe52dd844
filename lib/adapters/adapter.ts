/**
 * What all kinds of adapters have in common. Everything follows one list: the parameters that `Session.attach` returns, in the order of the
 * session's flat buffers.
 */
import { LorafuseError, shown } from '../errors.js'
import type { WarningEvent } from '../events.js'
import { allFinite } from '../files/floats.js'
import type { Tensor } from '../files/safetensors.js'
import type { AdapterSpec, Layer, OptimizerSpec, Parameter, Session } from '../native.js'
import { asIs, type Label, type ResolvedTrainOptions } from '../options/resolve.js'
import { inPieces, type Turn, turns } from '../turns.js'

/** `convRank` and `convAlpha`: of larger kernels; undefined, convolutions have no adapters. */
export type AdapterOptions = Pick<ResolvedTrainOptions, 'targets' | 'rank' | 'alpha'> &
  Partial<Pick<ResolvedTrainOptions, 'convRank' | 'convAlpha'>>

/** What PEFT's config says about a layer. */
export interface LayerConfig {
  /** Where that stands. */
  source: string
  rank: number
  scale: number
}

/** What a file says about the adapter of one layer. */
export interface FilePart {
  /** The file. */
  path: string
  network: string
  layer: Layer
  /** The names of the layer's tensors by their roles: `down`, `up`, `alpha`. */
  names: Record<string, string>
  /** All tensors of the file. */
  tensors: Map<string, Tensor>
  /** Undefined without a config. */
  config: LayerConfig | undefined
  /** The family of models that the file was made for, if that is known to be another. */
  family: string | undefined
}

/** A thing that is applied with a weight. */
interface Weighted<Part> {
  part: Part
  weight: number
}

/** What a file has, by network and the layer's path, and its weight on each network. */
interface Applied<Part> {
  file: Map<string, Map<string, Part>>
  weight(network: string): number
}

/** A kind of adapter, e.g. `lora`; its forward pass is in `native/model/adapters.h`. `Part`: one layer's adapter in a file. */
export interface AdapterKind<Part = unknown> {
  /** Whether a layer can have an adapter. */
  carries(layer: Layer): boolean
  /** Chooses the layers of a network that get an adapter. Throws `RANK_TOO_LARGE`. */
  specs(network: string, layers: Layer[], options: AdapterOptions, label?: Label): AdapterSpec[]
  /** Fills a part of a parameter, all zeros, with its initial values from the one numbered `first`, a multiple of 4. */
  initial(part: Float32Array, view: Pick<ParameterView, 'role' | 'shape' | 'index'>, seed: number, first: number): void
  /** Returns the shape that a parameter has in a file. */
  fileShape(view: Pick<ParameterView, 'role' | 'shape'>, layer: Layer): number[]
  /** Whether a parameter's numbers have another order in a file. */
  reorders(view: Pick<ParameterView, 'role' | 'shape'>): boolean
  /** Puts them into that order, in pieces. */
  reorder(view: ParameterView, to: Float32Array, turn: Turn): Promise<void>
  /** Returns what a parameter is multiplied by where a file has no alpha: alpha / rank for one of a layer's parameters, else 1. */
  bakedScale(view: Pick<ParameterView, 'role' | 'shape'>, alpha: number): number
  /** Reads a layer's adapter. Throws `LORA_UNSUPPORTED`, `LORA_INVALID`, `LORA_MISMATCH`. */
  read(part: FilePart): Part
  /** Returns the one adapter that does what several do at a layer. */
  stackSpec(network: string, layer: Layer, parts: Weighted<Part>[]): AdapterSpec
  /** Fills a parameter of that adapter, in pieces. */
  stack(view: ParameterView, parts: Weighted<Part>[], turn: Turn): Promise<void>
}

/** Is told what looks wrong in a file that is used all the same. */
export type Warn = (warning: Omit<WarningEvent, 'type'>) => void

/** How much of a tensor's name a sentence shows: kohya's are longer than most values, and their ends tell most. */
const LONGEST_NAME = 160

/** Writes a tensor's name for a sentence. */
export const shownName = (name: string) => shown(name, LONGEST_NAME)

/** Makes the error of a file whose adapters are of a kind that cannot be read. */
export function unsupported(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('LORA_UNSUPPORTED', `Expected ${expected} in the LoRA ${path} but received ${received}`)
}

/** Makes the error of a file whose adapters make no sense. */
export function invalidLora(path: string, expected: string, received: string): LorafuseError {
  return new LorafuseError('LORA_INVALID', `Expected ${expected} in the LoRA ${path} but received ${received}`)
}

/** One parameter's part of a flat buffer. */
export interface ParameterView {
  network: string
  /** The layer's path. */
  path: string
  /** Which of the layer's parameters it is: `down`, `up`. */
  role: string
  shape: number[]
  data: Float32Array
  /** Counts the adapters; all parameters of a layer have the same index. */
  index: number
}

const elements = (shape: number[]) => shape.reduce((product, length) => product * length, 1)

/** Counts the trainable numbers. */
export function parameterCount(parameters: Parameter[]): number {
  return parameters.reduce((sum, { shape }) => sum + elements(shape), 0)
}

/** Splits a flat buffer into views of its parameters, in order. */
export function parameterViews(parameters: Parameter[], flat: Float32Array): ParameterView[] {
  let [end, index, last] = [0, -1, '']
  return parameters.map(({ network, name, shape }) => {
    const dot = name.lastIndexOf('.')
    const [path, role] = [name.slice(0, dot), name.slice(dot + 1)]
    const layer = `${network} ${path}`
    if (layer !== last) index += 1
    last = layer
    const begin = end
    end += elements(shape)
    return { network, path, role, shape, data: flat.subarray(begin, end), index }
  })
}

/** The adapters that are attached to a session. */
export interface Adapters extends Pick<AdapterOptions, 'alpha' | 'convAlpha'> {
  kind: AdapterKind
  parameters: Parameter[]
  /** By network, those that can have one. */
  layers: Record<string, Layer[]>
}

/** Attaches adapters of a kind to networks, each of which is a group of the optimizer's. Throws `RANK_TOO_LARGE`, `OUT_OF_MEMORY`. */
export function attachAdapters(
  session: Pick<Session, 'layers' | 'attach'>,
  kind: AdapterKind,
  networks: { network: string; group: number }[],
  options: AdapterOptions,
  optimizer: OptimizerSpec,
  label: Label = asIs,
): Adapters {
  const all = networks.map(({ network, group }) => ({ network, group, layers: session.layers(network).filter(kind.carries) }))
  const specs = all.flatMap(({ network, group, layers }) => kind.specs(network, layers, options, label).map((spec) => ({ ...spec, group })))
  const parameters = session.attach(specs, optimizer)
  return {
    kind,
    alpha: options.alpha,
    convAlpha: options.convAlpha,
    parameters,
    layers: Object.fromEntries(all.map(({ network, layers }) => [network, layers])),
  }
}

/** Chooses which option a layer heeds: kernels larger than 1×1 have their own, as in kohya. */
export function heeded<Value>({ kernel }: Layer, own: Value, ofKernels: Value): Value {
  return kernel > 1 ? ofKernels : own
}

/** Returns the alpha of a layer. */
export function alphaOf({ alpha, convAlpha = alpha }: Pick<AdapterOptions, 'alpha' | 'convAlpha'>, layer: Layer): number {
  return heeded(layer, alpha, convAlpha)
}

/** One parameter as files hold it. */
export interface FileParameter extends Omit<ParameterView, 'index'> {
  alpha: number
}

/** How a file holds parameters: with alpha beside them, or `baked` into one of them. */
export type AlphaPlace = 'beside' | 'baked'

/** Lists the parameters, each with its layer, and by what it is multiplied. */
function* placedViews({ kind, layers, parameters, ...alphas }: Adapters, flat: Float32Array, place: AlphaPlace) {
  const placed = Object.entries(layers).map(([network, own]) => [network, new Map(own.map((layer) => [layer.path, layer]))] as const)
  const byNetwork = new Map(placed)
  for (const view of parameterViews(parameters, flat)) {
    const layer = byNetwork.get(view.network)!.get(view.path)!
    const alpha = alphaOf(alphas, layer)
    yield { view, layer, alpha, scale: place === 'baked' ? kind.bakedScale(view, alpha) : 1 }
  }
}

/** Counts the numbers that have another order or another value in a file. */
export function changedCount(adapters: Adapters, place: AlphaPlace): number {
  const views = [...placedViews(adapters, new Float32Array(0), place)]
  return views.reduce((sum, { view, scale }) => sum + (adapters.kind.reorders(view) || scale !== 1 ? elements(view.shape) : 0), 0)
}

/**
 * Returns the adapters' parameters as files hold them. `flat`: the session's buffer `weights`. `room`: for `changedCount` numbers, instead of
 * new memory.
 */
export async function fileParameters(
  adapters: Adapters,
  flat: Float32Array,
  place: AlphaPlace,
  room: Float32Array = new Float32Array(0),
  turn: Turn = turns(),
): Promise<FileParameter[]> {
  const { kind } = adapters
  const found: FileParameter[] = []
  let used = 0
  for (const { view, layer, alpha, scale } of placedViews(adapters, flat, place)) {
    const { network, path, role, data: held } = view
    let data = held
    if (kind.reorders(view) || scale !== 1) {
      data = room.length - used >= data.length ? room.subarray(used, used + data.length) : new Float32Array(data.length)
      used += data.length
      if (kind.reorders(view)) await kind.reorder(view, data, turn)
      else data.set(held)
      await inPieces(scale === 1 ? 0 : data.length, turn, (begin, end) => {
        for (let i = begin; i < end; i++) data[i] = scale * (data[i] as number)
      })
    }
    found.push({ network, path, role, shape: kind.fileShape(view, layer), data, alpha })
  }
  return found
}

/** Counts the layers that carry an adapter. */
export function adapterCount({ parameters }: Adapters): number {
  return (parameterViews(parameters, new Float32Array(0)).at(-1)?.index ?? -1) + 1
}

/** Makes the initial contents of the buffer `weights`, in pieces. */
export async function initialWeights({ kind, parameters }: Adapters, seed: number, turn: Turn = turns()): Promise<Float32Array> {
  const flat = new Float32Array(parameterCount(parameters))
  for (const view of parameterViews(parameters, flat)) {
    await inPieces(view.data.length, turn, (begin, end) => kind.initial(view.data.subarray(begin, end), view, seed, begin))
  }
  return flat
}

/**
 * Attaches adapters that were read from files, each with its weight, instead of earlier ones, in pieces. Throws `LORA_INVALID` where a
 * weight makes them too large for f32, `OUT_OF_MEMORY`.
 */
export async function attachStack<Part>(
  session: Pick<Session, 'layers' | 'attach' | 'write'>,
  kind: AdapterKind<Part>,
  stack: Applied<Part>[],
  turn: Turn = turns(),
): Promise<void> {
  const partsAt = (network: string, path: string) =>
    stack.flatMap(({ file, weight: weightOf }) => {
      const [part, weight] = [file.get(network)?.get(path), weightOf(network)]
      return part === undefined || weight === 0 ? [] : [{ part, weight }]
    })
  const networks = new Set(stack.flatMap(({ file }) => [...file.keys()]))
  const specs = [...networks].flatMap((network) => {
    const layers = session.layers(network).filter(({ path }) => partsAt(network, path).length > 0)
    return layers.map((layer) => kind.stackSpec(network, layer, partsAt(network, layer.path)))
  })
  const parameters = session.attach(specs)
  if (parameters.length === 0) return
  const flat = new Float32Array(parameterCount(parameters))
  for (const view of parameterViews(parameters, flat)) {
    await kind.stack(view, partsAt(view.network, view.path), turn)
    if (!allFinite(view.data))
      throw new LorafuseError('LORA_INVALID', 'Expected finite LoRAs but they overflow times their weights; use smaller weights')
  }
  session.write('weights', flat)
}
