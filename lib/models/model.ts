/** What training and drawing know about a model, whatever its layout on disk and its family. */
import type { Computation } from '../device.js'
import { hashFiles, legacyHash } from '../files/hashes.js'
import { type Network, type NetworkConfig, native, type Session, type SessionOptions } from '../native.js'
import type { ConfigReader, PredictionType, SchedulerConfig } from './configs.js'
import type { Tokenizer } from './tokenizer.js'

/** One network of a family. */
interface FamilyNetwork extends Pick<Network, 'architecture' | 'f32'> {
  /** Names it in errors. */
  title: string
  readConfig(config: ConfigReader): NetworkConfig
  /** The folder of the tokenizer that makes its ids. */
  tokenizer?: string
  /** Begins kohya's names of its LoRA tensors. */
  loraPrefix?: string
}

/** Everything that distinguishes a family of models; one file each, e.g. `sd1.ts`. */
export interface Family {
  /** Whether a folder that holds files and folders of these names is a model of the family. */
  matches(names: string[]): boolean
  /** By the names of diffusers' folders. */
  networks: Record<string, FamilyNetwork>
  /** The network that is trained, and the VAE. */
  trained: string
  vae: string
  /** How text becomes context: the encoder, and how many of its last layers a `clipSkip` drops. */
  text: { encoder: string; droppedLayers(clipSkip: number): number }
  /** What models of the family may predict, the default first. */
  predictionTypes: PredictionType[]
  /** Latents = (posterior sample − shift) × scale; defaults of the VAE's config. */
  scalingFactor: number
  shiftFactor: number
  /** What a LoRA's metadata says about the base model. */
  metadata: { baseModelVersion: string; v2: boolean; architecture: string }
}

export interface Model {
  /** The name of its folder or file. */
  name: string
  family: Family
  /** By the family's names. */
  networks: Record<string, Network>
  /** By the network that takes the ids. */
  tokenizers: Record<string, Tokenizer>
  /** Layers of the text encoder, the upper limit of `clipSkip`. */
  textLayers: number
  /** Features of a context token. */
  contextDim: number
  /** Tokens of a context. */
  contextLength: number
  latentChannels: number
  scheduler: SchedulerConfig
  /** Pixels per latent, each way. */
  factor: number
  /** Sides of images, in pixels, must be multiples of this, as the UNet halves the latents at each level. */
  multiple: number
  /** The size, in pixels, that it was trained at. */
  sampleSize: { width: number; height: number }
  scalingFactor: number
  shiftFactor: number
  /** Returns the sha256 of the trained network's weight files, which the first call reads. Throws as `hashFiles`. */
  hash(signal?: AbortSignal): Promise<string>
  /** Returns A1111's old hash of the first of them, 8 hex digits. */
  legacyHash(signal?: AbortSignal): Promise<string>
}

/** Makes `hash` and `legacyHash` of weight files; each is computed once, when first called. */
export function lazyHashes(paths: string[]): Pick<Model, 'hash' | 'legacyHash'> {
  let hash: Promise<string> | undefined
  let legacy: Promise<string> | undefined
  return {
    hash: (signal) => (hash ??= hashFiles(paths, { signal })),
    legacyHash: (signal) => (legacy ??= legacyHash(paths[0] as string, signal)),
  }
}

/** Returns kohya's prefix of each network that can have a LoRA. */
export function loraPrefixes({ networks }: Family): Record<string, string> {
  return Object.fromEntries(Object.entries(networks).flatMap(([name, { loraPrefix }]) => (loraPrefix ? [[name, loraPrefix]] : [])))
}

/** Opens a session on a model's networks; their weights are mapped, not read. Throws `NATIVE_NOT_FOUND`. */
export function openSession({ networks }: Model, options: Computation & Pick<SessionOptions, 'recompute'>): Session {
  return new (native().Session)({ ...options, networks })
}
