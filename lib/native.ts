/**
 * The only file that loads the native addon, and the whole of what TypeScript may ask of it.
 * All tensors are row-major and channels-last: images `[n, height, width, 3]`, latents `[n, h, w, C]`. Floats are f32, token ids i32.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { LorafuseError } from './errors.js'

/** `data` holds exactly as many elements as `shape` says. */
export interface Tensor<Data extends Float32Array | Int32Array = Float32Array | Int32Array> {
  shape: number[]
  data: Data
}

/** Inputs by the names that the graph declares. A missing, unknown or misshapen one is refused by name. */
export type Inputs = Record<string, Tensor>

/** One tensor of a weight file: `offset` counts bytes from the start of the file. */
export interface WeightEntry {
  name: string
  dtype: 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'F8_E5M2'
  shape: number[]
  offset: number
}

/** A safetensors file whose header has been read and checked (`lib/files/safetensors.ts`). */
export interface WeightFile {
  path: string
  tensors: WeightEntry[]
}

/** What a network's graph is built from, by the names of diffusers' and transformers' `config.json`; read in `native/model`. */
export type NetworkConfig = Record<string, number | boolean | string | (number | string)[]>

export interface Network {
  /** Which graph: see `native/model/networks.cc`. */
  architecture: 'unet' | 'clip' | 'vae'
  config: NetworkConfig
  files: WeightFile[]
  /** f32 whatever the session's precision: activations, and on a GPU the weights; `all`: what products of the CPU multiply, too. */
  f32?: 'activations' | 'all'
}

export interface SessionOptions {
  /** `cuda`: the first GPU; throws `NO_DEVICE` without one, `BACKEND_MISSING` where this build has no CUDA backend. */
  device: 'cpu' | 'cuda'
  /**
   * With `cuda`: a GPU that need not be there. The session plans and describes as on it; what would have to run there rejects with
   * `GPU_PLANNED`. Throws `BACKEND_MISSING` where this build has no CUDA backend.
   */
  gpu?: PlannedGpu
  /** Threads of the CPU, 1 or more; see `Session.threads`. Results do not depend on it. */
  threads: number
  /**
   * On a GPU: the type of activations and frozen weights; throws `PRECISION_UNSUPPORTED` for bf16 before Ampere. On the CPU, whose
   * activations are f32: how frozen weights are held, `f32` = exactly as the file has them, widened when used, else rounded to 16 bits
   * first. In bf16 products round what they multiply to bf16 where the processor does that (`info().cpuBf16`).
   */
  precision: 'f32' | 'fp16' | 'bf16'
  /** A step computes blocks of the network again for their gradients, instead of keeping all that they made: on the CPU to the same bits. */
  recompute?: boolean
  /** By name; `load` and `step` train `unet`, and `text` with it where that has adapters. */
  networks: Record<string, Network>
  /** How a step makes its text where one of these networks has adapters: their hidden states side by side, in this order. */
  text?: TextEncoder[]
}

/** What the plans of a GPU depend on. */
export interface PlannedGpu {
  /** 75, 80, … */
  computeCapability: number
  multiprocessors: number
  /** Of its memory, what can be allocated. */
  bytes: number
}

/** What is taken of a text encoder. */
export interface TextEncoder {
  network: string
  /** How many last layers the hidden states leave out. */
  skip: number
  /** Whether they end in the final layer norm. */
  norm: boolean
  /** Whether the text is pooled: the final-normed state of one token times the text projection. */
  pooled: boolean
}

/** A layer that can carry an adapter; `path` is its module's path in the checkpoint. */
export interface Layer {
  path: string
  /** `conv`: the checkpoint holds a convolution, so its LoRA tensors are 4-D. */
  kind: 'linear' | 'conv'
  inFeatures: number
  outFeatures: number
  /** Of a convolution; a linear layer has 1. */
  kernel: number
  stride: number
}

/** y += scale · up(down(x)) at a layer of a network; the kinds are those of `native/model/adapters.h`. */
export interface AdapterSpec {
  network: string
  path: string
  kind: 'lora'
  rank: number
  scale: number
  /** Index into `UpdateInput.groups`, for its parameters. */
  group: number
}

/** A trainable tensor, as the graph names it: `<path>.down`, `<path>.up`. At a kernel larger than 1, down is `[kernel·kernel, rank, in]`. */
export interface Parameter {
  network: string
  name: string
  shape: number[]
  group: number
}

/** An optimizer's name and its numbers, as `native/graph/optimizers.h` reads them; see `lib/train/optimizers.ts`. */
export type OptimizerSpec = { name: string } & Record<string, number | string>

/** One update of an optimizer. */
export interface UpdateInput {
  /** By `Parameter.group`. */
  groups: { learningRate: number; weightDecay: number }[]
  /** Gradients are scaled down to this global L2 norm; 0 = never. */
  maxGradNorm: number
  /** The factor that the gradients contain; they are divided by it first. */
  lossScale: number
  /** Counts updates from 1, for the bias correction. */
  step: number
}

/** Bytes by kind; `total` is what the native side holds while it runs the planned step or function. */
export interface MemoryPlan {
  weights: number
  /** The part of `weights` that kernels read in the mapped files. */
  mapped: number
  /** Of this machine's memory, besides: a session keeps the programs of its steps. */
  program: number
  adapters: number
  activations: number
  workspace: number
  total: number
}

/** What a device does a second. */
export interface Speeds {
  /** Bytes that an op reads and writes which does little else. */
  bytes: number
  /** Floating-point operations, by op: `mat_mul`, `conv2d`, `attention`, `attention_grad`. */
  flops: Record<string, number>
}

/** What one op of a step does. */
export interface Work {
  op: string
  layer: string
  flops: number
  bytes: number
  alive: number
  shape: number[]
}

/** What the ops of one step did, in the order in which they ran, and what each took; `updateSeconds`: the update after them, 0 without one. */
export interface StepProfile {
  nodes: (Work & { seconds: number })[]
  updateSeconds: number
}

/** What a planned step does and holds. */
export interface StepDescription {
  /**
   * In the order in which they run: floating-point operations, bytes that are read and written, each once, and bytes of the arena that are
   * in use meanwhile. `layer`: the path of the module, empty where there is none. `shape`: of the op's first output.
   */
  nodes: Work[]
  /** The ten largest values of those that are alive when most is in use, largest first; `name`: an input's, or of the op that made it. */
  largest: { name: string; layer: string; shape: number[]; bytes: number }[]
}

/** A flat buffer with a value for each element of each parameter, in the order of `attach`. */
export interface BufferInfo {
  /** `weights`, `gradients`, then the optimizer's own, e.g. `firstMoment`. */
  name: string
  dtype: 'F32'
  count: number
}

/**
 * Frozen networks, adapters, optimizer state and the arena they run in.
 * Asynchronous calls run off the main thread, one at a time, in order. `dispose` does not wait for them: memory is freed when the current
 * call returns, and later calls reject with code `DISPOSED`.
 */
export interface Session {
  /** Returns how many threads of the CPU compute: no more than were asked for, than there are processors, and than the system starts. */
  threads(): number
  /** Lists the layers of a network that can carry an adapter, in the order of its graph. */
  layers(network: string): Layer[]
  /**
   * Replaces the adapters: all buffers become zero. Returns the parameters in the order of the buffers, which is that of the graph, group
   * by group. Without an optimizer only the weights have a buffer, which is enough to draw. Throws `MODULE_UNKNOWN`, `RANK_INVALID`,
   * `OUT_OF_MEMORY`.
   */
  attach(adapters: AdapterSpec[], optimizer?: OptimizerSpec): Parameter[]
  buffers(): BufferInfo[]
  /** Reads a buffer into `to`, which has its length, or into a new array. With `to` no memory is needed. */
  read(buffer: string, to?: Float32Array): Float32Array
  write(buffer: string, data: Float32Array): void
  /** Makes all of a buffer zero; no memory is needed. */
  clear(buffer: string): void
  /**
   * Plans the memory of a training step whose inputs have these shapes; nothing is loaded or allocated. `recompute`: as in the session's
   * options, which it replaces.
   */
  planStep(shapes: Record<string, number[]>, recompute?: boolean): MemoryPlan
  /**
   * From now on steps compute as few blocks again as it takes for one with inputs of these shapes, and `programs` programs like it, to plan
   * for no more than `bytes`; those first that save most for the operations they take. Returns how many blocks and parts of blocks;
   * undefined, and changes nothing, if that is not enough with all of them either.
   */
  fitStep(shapes: Record<string, number[]>, bytes: number, programs: number): number | undefined
  /** Describes the same step: what it does and holds, node by node. */
  describeStep(shapes: Record<string, number[]>): StepDescription
  /** Plans the memory of a `run` whose inputs have these shapes. */
  planRun(network: string, functionName: string, shapes: Record<string, number[]>, settings?: Record<string, number>): MemoryPlan
  /** Measures the device for about a second. */
  speeds(): Promise<Speeds>
  /** Returns how many bytes can still be allocated on the GPU; undefined on the CPU, where the system knows. */
  availableBytes(): number | undefined
  /**
   * Resolves to a function's results, in order.
   * `unet.predict {latents, timesteps [n], context [n, tokens, dim]}`, of SDXL `pooled [n, P]` and `time_ids [n, 6]` too → the UNet's
   * output, adapters applied.
   * `text_encoder.encode {ids [n, length]}`, settings `{skip, norm, pooled}` as of `TextEncoder`, 0 or 1 for true or false (0, 1, 0 where
   * left out) → hidden states `[n, length, dim]`; with `pooled` also the pooled text `[m, P]` of the tokens `last [m]`, which index the
   * n·length rows.
   * `vae.encode {pixels in [−1, 1]}` → posterior moments `[n, h, w, 2C]`: mean, then log variance (unscaled).
   * `vae.decode {latents, unscaled}` → pixels, nominally in [−1, 1].
   */
  run(network: string, functionName: string, inputs: Inputs, settings?: Record<string, number>): Promise<Tensor<Float32Array>[]>
  /** Prepares a training step of these shapes, on all threads: weights in the kernels' layout, the arena. */
  prepare(shapes: Record<string, number[]>): Promise<void>
  /**
   * Queues a batch behind the one that waits for its step, if any: `latents` x₀ (scaled), `noise` ε, `coefficients [n, 2]` a, b and
   * `target_coefficients [n, 2]` c, d with x_t = a·x₀ + b·ε and target = c·x₀ + d·ε, `timesteps [n]`, `context`, of SDXL `pooled` and
   * `time_ids` too. On a GPU, it is copied while the previous step is computed.
   * Where a text encoder has adapters that train, the step encodes: instead of `context` and `pooled` it takes, for each entry of `SessionOptions.text`
   * with its network's name before it, `.ids [n·chunks, length]`, `.rows [n, tokens]`, which of the n·chunks·length rows are a sample's text,
   * and with `pooled` `.last [n]`.
   */
  load(inputs: Inputs): Promise<void>
  /**
   * Runs forward, loss and backward of the oldest loaded batch and adds to the gradients. On a GPU it resolves before that is done.
   * `weights [n]`: the factor of each sample's mean squared error in the differentiated loss, e.g. lossScale / (batch · accumulation).
   * With `update`, it then clips the gradients, moves the parameters and zeroes the gradients.
   */
  step(weights: Float32Array, update?: UpdateInput): Promise<void>
  /** As `step`, to the same bits, but waits for each op, and resolves to what they took. */
  profileStep(weights: Float32Array, update?: UpdateInput): Promise<StepProfile>
  /** Returns each sample's unweighted mean squared error, of all steps since the last call, in order. */
  losses(): Promise<Float32Array>
  /** Returns the global norm of the last update's gradients before clipping; if it is not finite, the update changed nothing. */
  norm(): Promise<number>
  dispose(): void
}

export interface NativeInfo {
  /** The CPU backend this processor runs: `x86-64-v4`, `x86-64-v3` or `generic`. */
  cpu: string
  /** That of a session in bf16: the same, or where the processor multiplies bf16 `x86-64-v4-bf16`. */
  cpuBf16: string
  /** Processor features that matter here, e.g. `avx2`, `avx512f`, `avx512_bf16`. */
  features: string[]
  /** `gpu`: its name and size; `reason`: why there is none. */
  cuda: { available: boolean; gpu: string; reason: string }
}

export interface NativeAddon {
  Session: new (options: SessionOptions) => Session
  info(): NativeInfo
}

const root = fileURLToPath(new URL('../..', import.meta.url))
let loaded: NativeAddon | undefined

const ADVICE = [
  '1. Install script skipped? Run: npx lorafuse-build',
  '2. Building needs cmake, make and g++ 11 or newer: apt-get install cmake make g++',
  '3. glibc older than 2.34? Use a newer distribution, or build there as above.',
]

/** Loads the addon once per thread. Throws `NATIVE_NOT_FOUND` with what to do. */
export function native(): NativeAddon {
  if (loaded) return loaded
  try {
    const load = createRequire(import.meta.url)('node-gyp-build') as (dir: string) => NativeAddon
    loaded = load(root)
    return loaded
  } catch (cause) {
    throw new LorafuseError(
      'NATIVE_NOT_FOUND',
      `The native addon could not be loaded: ${cause instanceof Error ? cause.message.split('\n')[0] : String(cause)}`,
      { cause, lines: ADVICE },
    )
  }
}
