/** What a run is made of: a resumed one must be made of the same, wherever it lies and however it was written down. */
import { createHash } from 'node:crypto'
import { bucketSides } from '../data/buckets.js'
import type { Computation } from '../device.js'
import { hashParts } from '../files/hashes.js'
import type { Model } from '../models/model.js'
import { lrSchedulers } from '../options/lr-schedulers.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { fixed } from '../options/table.js'
import { turns } from '../turns.js'
import type { CaptionTokens } from './cache.js'
import type { TrainedPart } from './parts.js'
import type { Identity } from './state.js'
import { hashContents, hashImages, makeBatches, stepsOf, type TrainingImage } from './training-images.js'
import { hashNetwork } from './weights-hash.js'

type Hashed = Pick<Model, 'networks' | 'family' | 'scheduler' | 'scalingFactor' | 'shiftFactor'>

/** Hashes each part of a model that the result depends on, by the names of diffusers' folders. Throws as `hashNetwork`. */
export async function hashModel(model: Hashed, signal?: AbortSignal): Promise<Record<string, string>> {
  const { family, networks, scalingFactor, shiftFactor } = model
  const { numTrainTimesteps, betaStart, betaEnd, betaSchedule } = model.scheduler
  const sha256 = (values: unknown[]) => createHash('sha256').update(JSON.stringify(values)).digest('hex')
  const hashes: Record<string, string> = {}
  for (const [name, network] of Object.entries(networks)) hashes[name] = await hashNetwork(network, signal)
  hashes[family.vae] = sha256([hashes[family.vae], scalingFactor, shiftFactor])
  hashes.scheduler = sha256([numTrainTimesteps, betaStart, betaEnd, betaSchedule])
  return hashes
}

/** Hashes what the tokenizers make of the images' captions. */
export async function hashTokens(images: Pick<TrainingImage, 'caption'>[], tokens: CaptionTokens, signal?: AbortSignal): Promise<string> {
  const bytes = function* (): Generator<Uint8Array> {
    for (const { caption } of images) for (const ids of Object.values(tokens.get(caption)!.ids)) yield new Uint8Array(ids.buffer)
  }
  return hashParts(bytes(), turns(signal))
}

/** What settings depend on besides the options. */
export interface SettingsOf {
  model: Pick<Model, 'family' | 'scheduler'>
  parts: TrainedPart[]
  precision: Computation['precision']
  /** Updates of the whole run. */
  steps: number
}

/** Returns the least clip skip that means the same: SDXL's two do. */
function leastClipSkip({ text }: Model['family'], clipSkip: number): number {
  const layers = (skipped: number) => text.map(({ skip }) => skip(skipped)).join()
  let least = 1
  while (layers(least) !== layers(clipSkip)) least += 1
  return least
}

/**
 * Lists what the options say of the result, each as it acts, so that other words for the same are equal: defaults of the model, one rate for
 * all encoders or one for each, epochs or steps, sides of buckets before they are rounded. What has no effect is undefined.
 */
export function settingsOf(options: ResolvedTrainOptions, { model, parts, precision, steps }: SettingsOf): Record<string, unknown> {
  const { family, scheduler } = model
  const rateOf = (network: string) => parts.find((part) => part.network === network)?.learningRate
  const trainsText = parts.some(({ isText }) => isText)
  const trainsUNet = parts.some(({ isText }) => !isText)
  const { least, most } = bucketSides(options)
  const hasSides = options.buckets && !options.bucketNoUpscale
  return {
    ...Object.fromEntries(fixed.map((name) => [name, options[name]])),
    bucketMin: hasSides ? least : undefined,
    bucketMax: hasSides ? most : undefined,
    bucketNoUpscale: options.buckets ? options.bucketNoUpscale : undefined,
    targets: trainsUNet ? options.targets : undefined,
    learningRate: rateOf(family.trained),
    textEncoderLr: trainsText ? family.text.map(({ network }) => rateOf(network) ?? 0) : undefined,
    networkTrainUnetOnly: undefined,
    networkTrainTextEncoderOnly: undefined,
    steps: lrSchedulers[options.lrScheduler].dependsOnSteps ? steps : undefined,
    clipSkip: leastClipSkip(family, options.clipSkip),
    predictionType: scheduler.predictionType,
    zeroTerminalSnr: scheduler.rescaleBetasZeroSnr,
    precision,
  }
}

/** What a run is made of. */
export interface Made {
  options: ResolvedTrainOptions
  model: Hashed & Pick<Model, 'hash'>
  /** Resolves to what `hashModel` makes of the model. */
  hashes(): Promise<Record<string, string>>
  tokens: CaptionTokens
  /** See `hashContents`. */
  files: Map<string, string>
  parts: TrainedPart[]
  precision: Computation['precision']
  signal?: AbortSignal
}

/** Makes the identity of a run on these images, those that can be decoded. */
export async function identityOf(made: Made, images: TrainingImage[]): Promise<Identity> {
  const { options, hashes, files, tokens, signal } = made
  return {
    model: await hashes(),
    images: await hashImages(images, signal),
    contents: await hashContents(images, files, signal),
    tokens: await hashTokens(images, tokens, signal),
    settings: settingsOf(options, { ...made, steps: stepsOf(makeBatches(images, options), options) }),
  }
}

/** Makes the identity that states before version 3 hold: of the model the sha256 of the UNet's files, and the options as they were given. */
export async function earlierIdentityOf({ options, model, signal }: Made, images: TrainingImage[]): Promise<Identity> {
  const length = lrSchedulers[options.lrScheduler].dependsOnSteps ? (['steps', 'epochs'] as const) : []
  const names = [...fixed, 'vae' as const, 'textEncoder' as const, ...length]
  return {
    model: { [model.family.trained]: await model.hash(signal) },
    images: await hashImages(images, signal),
    settings: Object.fromEntries(names.map((name) => [name, options[name]])),
  }
}
