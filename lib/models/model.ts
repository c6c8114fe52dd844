/** What training and drawing know about a model, whatever its layout on disk and its family. */
import type { Computation } from '../device.js'
import type { LorafuseError } from '../errors.js'
import { hashFiles, legacyHash } from '../files/hashes.js'
import { type Network, type NetworkConfig, native, type Session, type SessionOptions, type WeightFile } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import type { ConfigReader, PredictionType, SchedulerConfig } from './configs.js'
import type { Tokenizer } from './tokenizer.js'

/** One network of a family, beside what `NETWORKS` says of it. */
interface FamilyNetwork extends Pick<Network, 'f32'> {
  readConfig(config: ConfigReader): NetworkConfig
  /** How kohya names its LoRA tensors, see `loraPrefixes`; `spell` is made for a config. */
  lora?: { prefix: string; spell?(config: NetworkConfig): (path: string) => string }
}

/** One text encoder's part of a context; the parts of all are joined along the channels. */
export interface TextEncoding {
  network: string
  /** How many of the encoder's last layers a `clipSkip` drops. */
  skip(clipSkip: number): number
  /** Whether the final norm is applied to what is left. */
  norm: boolean
  /** Whether its pooled text is used too. */
  pooled: boolean
  /** The id behind the end of a text, where the tokenizer's files do not say; EOS where it is left out. */
  padId?: number
}

/** Everything that distinguishes a family of models; one file each, e.g. `sd1.ts`. */
export interface Family {
  /** As the start of a run names it. */
  title: string
  /** Whether a UNet's config is that of the family. */
  matches(unet: ConfigReader): boolean
  /** By the names of diffusers' folders. */
  networks: Record<string, FamilyNetwork>
  /** The network that is trained, and the VAE. */
  trained: string
  vae: string
  /** How text becomes context. */
  text: TextEncoding[]
  /** The most that `clipSkip` may be, where the layers alone do not tell. */
  mostClipSkip?: number
  /** What models of the family may predict, the default first. */
  predictionTypes: PredictionType[]
  /** Latents = (posterior sample − shift) × scale; defaults of the VAE's config. */
  scalingFactor: number
  shiftFactor: number
  /** The side that models of the family are trained at, in latents; the default of the UNet's config. */
  sampleSize: number
  /** What a LoRA's metadata says about a base model that predicts v, or else ε. */
  metadata(predictsV: boolean): { baseModelVersion: string; v2: boolean; architecture: string; implementation: string }
}

/** A network as a reader finds it: its config as diffusers or transformers write it, and where its weights are, under our names. */
export interface NetworkParts {
  config: ConfigReader
  files: WeightFile[]
}

/** What a reader finds, whatever the layout; `readModel` finds the family and checks that all fits together. */
export interface Parts {
  /** The name of its folder or file. */
  name: string
  /** Where it is, for errors. */
  path: string
  /** By the names of diffusers' folders: `unet`, `vae`, `text_encoder`, `text_encoder_2`; those that are there. */
  networks: Record<string, NetworkParts>
  /** Makes the error of a network that the family has and `networks` lacks; `title` names it. */
  missing(network: string, title: string): LorafuseError
  /** Loads the tokenizer of a text encoder; `padId`: see `TextEncoding`. */
  tokenizer(network: string, padId: number | undefined): Promise<Tokenizer>
  scheduler: ConfigReader
  /** What the scheduler's values were found by, for the start of a run, e.g. `the key v_pred`. */
  schedulerBy: string
}

/** What `readModel` heeds of the options. */
export type ReadOptions = Partial<Pick<ResolvedTrainOptions, 'predictionType' | 'zeroTerminalSnr' | 'vae' | 'textEncoder'>>

export interface Model {
  /** The name of its folder or file. */
  name: string
  family: Family
  /** The family, what the model predicts, and what says so, for the start of a run. */
  foundBy: string
  /** By the family's names. */
  networks: Record<string, Network>
  /** By the network that takes the ids. */
  tokenizers: Record<string, Tokenizer>
  /** The upper limit of `clipSkip`. */
  mostClipSkip: number
  /** Features of a context token. */
  contextDim: number
  /** Features of the pooled text; 0 where the UNet takes none. */
  pooledDim: number
  /** Whether the UNet takes the sizes of image, crop and picture. */
  timeIds: boolean
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

/** Makes a function that computes something when first called, and again after a failure, which may be of that call's signal alone. */
function once<Result>(compute: (signal?: AbortSignal) => Promise<Result>): (signal?: AbortSignal) => Promise<Result> {
  let kept: Promise<Result> | undefined
  return (signal) => {
    if (kept) return kept
    kept = compute(signal)
    kept.catch(() => (kept = undefined))
    return kept
  }
}

/** Makes `hash` and `legacyHash` of weight files; each is computed once, when first called. */
export function lazyHashes(paths: string[]): Pick<Model, 'hash' | 'legacyHash'> {
  return {
    hash: once((signal) => hashFiles(paths, { signal })),
    legacyHash: once((signal) => legacyHash(paths[0] as string, signal)),
  }
}

/** How kohya names the layers of each network that can have a LoRA: `Prefixes` of `lib/adapters/kohya.ts`. `models`: the model's networks. */
export function loraPrefixes({ networks }: Family, models: Record<string, Pick<Network, 'config'>>) {
  const prefixes: Record<string, { prefix: string; spell?(path: string): string }> = {}
  for (const [name, { lora }] of Object.entries(networks)) {
    if (!lora) continue
    const { prefix, spell } = lora
    prefixes[name] = { prefix, ...(spell && { spell: spell(models[name]!.config) }) }
  }
  return prefixes
}

/** Whether a model predicts v, which names of base models and metadata tell apart. */
export const predictsV = ({ scheduler }: Pick<Model, 'scheduler'>) => scheduler.predictionType === 'v_prediction'

/** Opens a session on a model's networks; their weights are mapped, not read. Throws `NATIVE_NOT_FOUND`. */
export function openSession({ networks }: Model, options: Computation & Pick<SessionOptions, 'recompute' | 'text'>): Session {
  return new (native().Session)({ ...options, networks })
}
