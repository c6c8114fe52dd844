/**
 * The only file that loads the native addon, and the whole of what TypeScript may ask of it.
 * All tensors are row-major f32 and channels-last: images `[n, height, width, 3]`, latents `[n, h, w, 4]`.
 */
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { LorafuseError } from './errors.js'

/** One tensor of a weight file: `offset` counts bytes from the start of the file. */
export interface WeightEntry {
  name: string
  dtype: 'F32' | 'F16' | 'BF16'
  shape: number[]
  offset: number
}

/** A safetensors file whose header has been read and checked (`lib/safetensors.ts`). */
export interface WeightFile {
  path: string
  tensors: WeightEntry[]
}

/** What the UNet's graph is built from; names as in diffusers' `unet/config.json`. */
export interface UNetConfig {
  inChannels: number
  outChannels: number
  blockOutChannels: number[]
  /** Per down block: has cross attention (`CrossAttnDownBlock2D`). */
  downAttention: boolean[]
  /** Per up block: has cross attention (`CrossAttnUpBlock2D`). */
  upAttention: boolean[]
  layersPerBlock: number
  /** Heads of each down block; SD1's `attention_head_dim` counts heads. */
  heads: number[]
  crossAttentionDim: number
  normNumGroups: number
  normEps: number
  useLinearProjection: boolean
  flipSinToCos: boolean
  freqShift: number
}

/** Names as in transformers' `text_encoder/config.json`. */
export interface TextEncoderConfig {
  hiddenSize: number
  intermediateSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  maxPositionEmbeddings: number
  vocabSize: number
  layerNormEps: number
  hiddenAct: 'quick_gelu' | 'gelu'
}

/** Names as in diffusers' `vae/config.json`. */
export interface VaeConfig {
  inChannels: number
  outChannels: number
  latentChannels: number
  blockOutChannels: number[]
  layersPerBlock: number
  normNumGroups: number
}

export interface Component<Config> {
  config: Config
  files: WeightFile[]
}

export interface SessionOptions {
  /** `cuda`: the first GPU; throws `NO_DEVICE` without one, `BACKEND_MISSING` where this build has no CUDA backend. */
  device: 'cpu' | 'cuda'
  /** Worker threads of the CPU, 1 or more. Results do not depend on it. */
  threads: number
  /**
   * On a GPU: the type of activations and frozen weights; throws `PRECISION_UNSUPPORTED` for bf16 before Ampere. On the CPU, which
   * computes in f32: how frozen weights are held, `f32` = exactly as the file has them, widened when used, else rounded to 16 bits first.
   */
  precision: 'f32' | 'fp16' | 'bf16'
  unet: Component<UNetConfig>
  textEncoder?: Component<TextEncoderConfig>
  vae?: Component<VaeConfig>
}

/** A layer of the UNet that can carry an adapter; `path` is diffusers' module path. */
export interface AdaptableModule {
  path: string
  /** `conv`: the checkpoint holds a 1×1 convolution, so its LoRA tensors are 4-D. */
  kind: 'linear' | 'conv'
  inFeatures: number
  outFeatures: number
}

/** y += scale · up(down(x)) at `path`. */
export interface AdapterSpec {
  path: string
  rank: number
  scale: number
}

/** A batch. */
export interface StepInput {
  /** `[n, h, w]` of the latents. */
  shape: [number, number, number]
  /** Scaled latents x₀ `[n, h, w, C]`. */
  latents: Float32Array
  /** ε `[n, h, w, C]`, also the target. */
  noise: Float32Array
  /** `[n, 2]`: √ᾱ and √(1−ᾱ) of each sample's timestep. */
  coefficients: Float32Array
  timesteps: Float32Array
  /** Text embeddings `[n, tokens, crossAttentionDim]`. */
  context: Float32Array
}

export interface UpdateInput {
  learningRate: number
  beta1: number
  beta2: number
  epsilon: number
  weightDecay: number
  /** Gradients are scaled down to this global L2 norm; 0 = never. */
  maxGradNorm: number
  /** What the gradients are multiplied by: they are divided by it first. */
  lossScale: number
  /** Counts updates from 1, for the bias correction. */
  step: number
}

/** Bytes of one training step, by kind; `total` is what the native side holds while training. */
export interface MemoryPlan {
  weights: number
  adapters: number
  activations: number
  workspace: number
  total: number
}

/** Which flat adapter buffer: for every adapter in `attach` order `down [rank, in]`, then `up [out, rank]`. */
export type AdapterBuffer = 'weights' | 'gradients' | 'firstMoment' | 'secondMoment'

/**
 * Frozen networks, adapters, optimizer moments and the arena they run in.
 * Asynchronous calls run off the main thread, one at a time in the order they were made; `dispose` waits for none:
 * memory is freed once the call in hand returns, later calls reject with code `DISPOSED`.
 */
export interface Session {
  modules(): AdaptableModule[]
  /** Replaces the adapters: weights, gradients and moments become zero. */
  attach(adapters: AdapterSpec[]): void
  readAdapters(buffer: AdapterBuffer): Float32Array
  writeAdapters(buffer: AdapterBuffer, data: Float32Array): void
  plan(shape: [number, number, number], tokens: number): MemoryPlan
  /** Token ids `[n, length]` → last hidden state after `skip` dropped layers and the final norm, `[n, length, hiddenSize]`. */
  encodeText(ids: Int32Array, count: number, skip: number): Promise<Float32Array>
  /** Pixels in [−1, 1] `[n, height, width, 3]` → posterior moments `[n, h, w, 8]`: mean, then log variance (unscaled). */
  encodeImages(pixels: Float32Array, shape: [number, number, number]): Promise<Float32Array>
  /** Unscaled latents `[n, h, w, 4]` → pixels `[n, 8h, 8w, 3]`, nominally in [−1, 1]. */
  decodeLatents(latents: Float32Array, shape: [number, number, number]): Promise<Float32Array>
  /** The UNet's output `[n, h, w, C]`, adapters applied. */
  predict(latents: Float32Array, shape: [number, number, number], timesteps: Float32Array, context: Float32Array): Promise<Float32Array>
  /** Puts a batch behind the one that waits for its step, if any. On a GPU it is copied there while the step before is computed. */
  load(input: StepInput): Promise<void>
  /**
   * Forward, loss and backward of the batch that was loaded first; adds to the gradients. On a GPU it resolves before that is done.
   * `weights` `[n]`: the factor of each sample's mean squared error in the loss that is differentiated, e.g. lossScale/(batch·accumulation).
   * `update`: then clip, AdamW and zero the gradients.
   */
  step(weights: Float32Array, update?: UpdateInput): Promise<void>
  /** Each sample's mean squared error, unweighted, of all steps since the last call, in order. */
  losses(): Promise<Float32Array>
  /** The last update's global norm of the gradients before clipping; not finite = it changed nothing. */
  norm(): Promise<number>
  dispose(): void
}

export interface NativeInfo {
  /** The CPU backend this processor runs: `x86-64-v4`, `x86-64-v3` or `generic`. */
  cpu: string
  /** Processor features that matter here, e.g. `avx2`, `avx512f`, `avx512_bf16`. */
  features: string[]
  threads: number
  /** `gpu`: its name and size; `reason`: why there is none. */
  cuda: { available: boolean; gpu: string; reason: string }
}

export interface NativeAddon {
  Session: new (options: SessionOptions) => Session
  info(): NativeInfo
}

const root = fileURLToPath(new URL('../..', import.meta.url))
let loaded: NativeAddon | undefined

/** Loads the addon once a thread. Throws `NATIVE_NOT_FOUND` with what to do. */
export function native(): NativeAddon {
  if (loaded) return loaded
  try {
    const load = createRequire(import.meta.url)('node-gyp-build') as (dir: string) => NativeAddon
    loaded = load(root)
    return loaded
  } catch (cause) {
    throw new LorafuseError(
      'NATIVE_NOT_FOUND',
      `The native addon could not be loaded: ${cause instanceof Error ? cause.message.split('\n')[0] : String(cause)}\n` +
        '  1. Install script skipped? Run: npx lorafuse-build\n' +
        '  2. Building needs cmake, make and g++ 11 or newer: apt-get install cmake make g++\n' +
        '  3. glibc older than 2.34? Use a newer distribution, or build there as above.',
      { cause },
    )
  }
}
