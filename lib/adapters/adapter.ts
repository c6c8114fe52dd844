/**
 * What every kind of adapter has in common. Everything here follows one list: the parameters that `Session.attach` returned, in the order
 * in which they lie in the session's flat buffers.
 */
import type { AdapterSpec, Layer, OptimizerSpec, Parameter, Session } from '../native.js'

export interface AdapterOptions {
  targets: 'default' | 'attention'
  rank: number
  alpha: number
}

/** A kind of adapter: a record like `lora` of lora.ts, beside the native side's own in `native/model/adapters.h`. */
export interface AdapterKind {
  /** The adapters of a network with these layers. Throws `RANK_TOO_LARGE`. */
  specs(network: string, layers: Layer[], options: AdapterOptions): AdapterSpec[]
  /** A parameter before the first step; undefined: zero. `index` counts the adapters, in the order of their parameters. */
  initial(role: string, shape: number[], seed: number, index: number): Float32Array | undefined
  /** The shape of a parameter in a file. */
  fileShape(shape: number[], layer: Layer): number[]
}

/** A parameter's part of a flat buffer, as a view of it. */
export interface ParameterView {
  network: string
  /** The layer's path. */
  path: string
  /** Which of the layer's parameters: `down`, `up`. */
  role: string
  shape: number[]
  data: Float32Array
  /** Counts the adapters: parameters of one layer have the same. */
  index: number
}

const elements = (shape: number[]) => shape.reduce((product, length) => product * length, 1)

/** How many numbers train. */
export function parameterCount(parameters: Parameter[]): number {
  return parameters.reduce((sum, { shape }) => sum + elements(shape), 0)
}

/** The parameters as views of a flat buffer, in order. */
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

/** The adapters of a session. */
export interface Adapters {
  kind: AdapterKind
  alpha: number
  parameters: Parameter[]
  layers: Layer[]
}

/** Attaches adapters of a kind to a network. Throws `RANK_TOO_LARGE`, `OUT_OF_MEMORY`. */
export function attachAdapters(
  session: Pick<Session, 'layers' | 'attach'>,
  kind: AdapterKind,
  network: string,
  options: AdapterOptions,
  optimizer: OptimizerSpec,
): Adapters {
  const layers = session.layers(network)
  const parameters = session.attach(kind.specs(network, layers, options), optimizer)
  return { kind, alpha: options.alpha, parameters, layers }
}

/** How many layers carry an adapter. */
export function adapterCount({ parameters }: Adapters): number {
  return (parameterViews(parameters, new Float32Array(0)).at(-1)?.index ?? -1) + 1
}

/** The buffer `weights` before the first step. */
export function initialWeights({ kind, parameters }: Adapters, seed: number): Float32Array {
  const flat = new Float32Array(parameterCount(parameters))
  for (const { role, shape, data, index } of parameterViews(parameters, flat)) {
    const values = kind.initial(role, shape, seed, index)
    if (values) data.set(values)
  }
  return flat
}
