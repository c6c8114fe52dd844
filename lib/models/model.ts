/** What training and drawing know of a model, whatever layout it was read from and whatever family it is of. */
import type { Computation } from '../device.js'
import { hashFiles, legacyHash } from '../files/hashes.js'
import { type Network, native, type Session } from '../native.js'
import type { PredictionType, SchedulerConfig } from './configs.js'
import type { Tokenizer } from './tokenizer.js'

/** All that sets a family of models apart; one file each, e.g. `sd1.ts`. */
export interface Family {
  name: string
  /** By network, named as diffusers names its folder: whose graph it is, whether it needs f32, and kohya's prefix for its LoRA. */
  networks: Record<string, Pick<Network, 'architecture' | 'f32'> & { title: string; loraPrefix?: string }>
  /** Text becomes context by one encoder, some of whose last layers are dropped: how many, for a `clipSkip`. */
  text: { encoder: string; droppedLayers(clipSkip: number): number }
  /** What its models may predict, the default first. */
  predictionTypes: PredictionType[]
  /** Latents = (posterior sample − shift) × scale, unless the VAE's config has other factors. */
  scalingFactor: number
  shiftFactor: number
  /** What a LoRA's metadata says of the base model. */
  metadata: { baseModelVersion: string; v2: boolean; architecture: string }
}

export interface Model {
  /** The name of its folder or file. */
  name: string
  family: Family
  /** By the names that `family` has for them. */
  networks: Record<string, Network>
  /** By the network that takes their ids. */
  tokenizers: Record<string, Tokenizer>
  /** Layers of the text encoder: the most that `clipSkip` can be. */
  textLayers: number
  /** Features of a context token. */
  contextDim: number
  latentChannels: number
  scheduler: SchedulerConfig
  /** Pixels per latent, each way. */
  factor: number
  /** Sides of images, in pixels, are multiples of it: the UNet halves the latents at each level. */
  multiple: number
  /** The size it was trained at, in pixels. */
  sampleSize: { width: number; height: number }
  scalingFactor: number
  shiftFactor: number
  /** sha256 of the UNet's weight files: reads all of them when first called. */
  hash(): Promise<string>
  /** A1111's old hash of the UNet, 8 hex digits. */
  legacyHash(): Promise<string>
}

/** `hash` and `legacyHash` of weight files, each computed once. */
export function lazyHashes(paths: string[]): Pick<Model, 'hash' | 'legacyHash'> {
  const once = <Value>(compute: () => Promise<Value>) => {
    let value: Promise<Value> | undefined
    return () => (value ??= compute())
  }
  return { hash: once(() => hashFiles(paths)), legacyHash: once(() => legacyHash(paths[0] as string)) }
}

/** kohya's prefix for the LoRA of each network that has one. */
export function loraPrefixes({ networks }: Family): Record<string, string> {
  return Object.fromEntries(Object.entries(networks).flatMap(([name, { loraPrefix }]) => (loraPrefix ? [[name, loraPrefix]] : [])))
}

/** Opens a model's networks without reading their weights. Throws `NATIVE_NOT_FOUND`, and what mapping the files throws. */
export function openSession({ networks }: Model, options: Computation): Session {
  return new (native().Session)({ ...options, networks })
}
