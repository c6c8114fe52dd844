/** Encodes images and captions once, with the frozen encoders, and holds the results in memory. */
import { cropOf, isBadImage, loadImage } from '../data/images.js'
import { checkUsable, type DatasetWarning, type Skipped, skippedFile, warningsOf } from '../data/skipped.js'
import { LorafuseError } from '../errors.js'
import type { Model } from '../models/model.js'
import {
  chunksOf,
  contextLength,
  type EncodedText,
  encodeText,
  type Sizes,
  type TextOptions,
  type Tokens,
  tokenize,
} from '../models/text.js'
import type { Session } from '../native.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { normal, uniform } from '../random.js'
import { turns } from '../turns.js'
import type { TrainingImage } from './training-images.js'

/** An image's scaled latents `[h, w, C]`, and those of its mirror image with `flip`; where each comes from. */
export interface Latents {
  height: number
  width: number
  plain: Float32Array
  mirrored?: Float32Array
  sizes: { plain: Sizes; mirrored: Sizes }
}

/** `images` is for messages alone; `strict` refuses damaged images instead of skipping them. */
export type LatentsOptions = Pick<ResolvedTrainOptions, 'images' | 'strict' | 'seed' | 'flip' | 'randomCrop' | 'background'>

/** Called before each computation; `done` counts those before it. It may throw to stop. */
export type OnProgress = (done: number, total: number) => void

type Scale = Pick<Model, 'scalingFactor' | 'shiftFactor'>

/**
 * Draws a posterior sample `[…, C]`, shifted and scaled, from moments `[…, 2C]`, mean before log variance
 * (huggingface/diffusers:src/diffusers/models/autoencoders/vae.py).
 */
export function samplePosterior(moments: Float32Array, channels: number, noise: Float32Array, scale: Scale): Float32Array {
  const { scalingFactor, shiftFactor } = scale
  const latents = new Float32Array(noise.length)
  for (let i = 0; i < latents.length; i++) {
    const at = i + Math.floor(i / channels) * channels
    const logVariance = Math.min(20, Math.max(-30, moments[at + channels] as number))
    const sample = (moments[at] as number) + Math.exp(logVariance / 2) * (noise[i] as number)
    latents[i] = (sample - shiftFactor) * scalingFactor
  }
  return latents
}

/** SDXL's sizes of an image and its mirror image: the crop is the real one, where kohya takes one in the middle of a letterboxed image. */
function sizesOf({ width, height, bucket }: TrainingImage, crop: { x: number; y: number } | undefined): Latents['sizes'] {
  const { plain, mirrored } = cropOf(bucket, crop)
  const sizes = { original: { width, height }, target: { width: bucket.width, height: bucket.height } }
  return { plain: { ...sizes, crop: plain }, mirrored: { ...sizes, crop: mirrored } }
}

/**
 * Encodes every image, with `flip` its mirror image too, and draws one posterior sample of each, as kohya does when it caches latents. A
 * random crop is drawn once per image, not once per step. Damaged images are left out, and told to `onSkipped` at the end; the random numbers of
 * the others are those of a folder without it. Throws `DATASET_NOT_CLEAN` (`strict`, one is damaged), `NO_IMAGES` (all are), `NAN_LATENTS`.
 */
export async function cacheLatents(
  session: Pick<Session, 'run'>,
  model: Scale & Pick<Model, 'family' | 'factor'>,
  images: TrainingImage[],
  options: LatentsOptions,
  onProgress: OnProgress,
  onSkipped: (warning: DatasetWarning) => void,
): Promise<{ images: TrainingImage[]; latents: Latents[] }> {
  const { seed, flip, randomCrop, background, strict } = options
  const variants = flip ? 2 : 1
  const total = images.length * variants
  let done = 0
  const encode = async ({ path, bucket: { width, height } }: TrainingImage, pixels: Float32Array, index: number, mirrored: boolean) => {
    const [moments] = await session.run(model.family.vae, 'encode', { pixels: { shape: [1, height, width, 3], data: pixels } })
    const channels = moments!.shape.at(-1)! / 2
    const noise = normal({ seed, stream: 'posterior', step: Number(mirrored), index }, moments!.data.length / 2)
    const latents = samplePosterior(moments!.data, channels, noise, model)
    if (!latents.every(Number.isFinite)) {
      const remedy = "the model's VAE is damaged: download it again, or give another (--vae)"
      throw new LorafuseError('NAN_LATENTS', `Expected numbers for the latents of ${path} but received NaN or infinity; ${remedy}`)
    }
    return latents
  }
  const usable: TrainingImage[] = []
  const cached: Latents[] = []
  const damaged: Skipped[] = []
  for (const image of images) {
    const { path, bucket } = image
    const index = cached.length
    onProgress(done, total)
    done += variants
    const [x = 0, y = 0] = randomCrop ? uniform({ seed, stream: 'crop', index }, 2) : []
    const crop = randomCrop ? { crop: { x, y } } : {}
    const pixels = await loadImage(path, { bucket, background, mirrored: flip, ...crop }).catch((error: unknown) => {
      if (!isBadImage(error)) throw error
      damaged.push(skippedFile(path, error))
    })
    // A strict run goes on only to name every damaged image in its error below.
    if (!pixels || (strict && damaged.length > 0)) continue
    const latents: Latents = {
      height: bucket.height / model.factor,
      width: bucket.width / model.factor,
      plain: await encode(image, pixels.plain, index, false),
      sizes: sizesOf(image, crop.crop),
    }
    if (pixels.mirrored) {
      onProgress(done - 1, total)
      latents.mirrored = await encode(image, pixels.mirrored, index, true)
    }
    usable.push(image)
    cached.push(latents)
  }
  checkUsable(options, cached.length, damaged)
  for (const warning of warningsOf(damaged)) onSkipped(warning)
  onProgress(total, total)
  return { images: usable, latents: cached }
}

/** Returns the bytes of what is cached of images and captions; `encodes`: captions are not only tokenized. */
export function cachedBytes(
  images: Pick<TrainingImage, 'bucket' | 'caption'>[],
  model: Pick<Model, 'family' | 'tokenizers' | 'factor' | 'latentChannels' | 'contextDim' | 'pooledDim'>,
  options: Pick<ResolvedTrainOptions, 'flip' | 'maxTokenLength'>,
  encodes: boolean,
): number {
  const { family, tokenizers, factor, latentChannels, contextDim, pooledDim } = model
  const pixels = images.reduce((sum, { bucket }) => sum + bucket.width * bucket.height, 0)
  const latents = (pixels / factor ** 2) * latentChannels * (options.flip ? 2 : 1)
  const captions = new Set(images.map(({ caption }) => caption)).size
  const tokens = family.text.reduce((sum, { network }) => sum + chunksOf(options) * tokenizers[network]!.length, 0)
  const encoded = encodes ? contextLength(model, options) * contextDim + pooledDim : 0
  return 4 * (latents + captions * (tokens + encoded))
}

/** The tokens of each distinct caption. */
export type CaptionTokens = Map<string, Tokens>

/** Makes the tokens of each distinct caption. `signal`: stops it. */
export async function tokenizeCaptions(
  model: Pick<Model, 'family' | 'tokenizers'>,
  images: Pick<TrainingImage, 'caption'>[],
  options: Pick<TextOptions, 'maxTokenLength'>,
  signal?: AbortSignal,
): Promise<CaptionTokens> {
  const turn = turns(signal)
  const tokens: CaptionTokens = new Map()
  for (const { caption } of images) {
    await turn()
    if (!tokens.has(caption)) tokens.set(caption, tokenize(model, caption, options))
  }
  return tokens
}

/** Encodes each distinct caption. */
export async function cacheText(
  session: Pick<Session, 'run'>,
  model: Pick<Model, 'family' | 'tokenizers'>,
  tokens: CaptionTokens,
  { clipSkip }: Pick<TextOptions, 'clipSkip'>,
  onProgress: OnProgress,
): Promise<Map<string, EncodedText>> {
  const cached = new Map<string, EncodedText>()
  for (const [caption, { ids }] of tokens) {
    onProgress(cached.size, tokens.size)
    cached.set(caption, await encodeText(session, model, ids, clipSkip))
  }
  onProgress(cached.size, cached.size)
  return cached
}
