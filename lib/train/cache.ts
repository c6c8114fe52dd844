/** What frozen networks say about the images and captions, computed once and held in memory. */
import type { Bucket } from '../data/buckets.js'
import type { DatasetItem } from '../data/dataset.js'
import { loadImage } from '../data/images.js'
import { LorafuseError } from '../errors.js'
import type { Tokenizer } from '../models/tokenizer.js'
import type { Session } from '../native.js'
import type { Colour } from '../options/values.js'
import { integer, normal, uniform } from '../random.js'

/** An image and the size it trains at. */
export interface Picture extends DatasetItem {
  bucket: Bucket
}

/** Scaled latents `[h, w, C]` of an image, and of its mirror image where images are mirrored. */
export interface Latents {
  height: number
  width: number
  plain: Float32Array
  mirrored?: Float32Array
}

export interface LatentsOptions {
  seed: number
  flip: boolean
  randomCrop: boolean
  background: Colour
  /** Pixels per latent, each way. */
  factor: number
  scalingFactor: number
}

/** Called before each computation with how many are done; may throw to stop. */
export type Progress = (done: number, total: number) => void

/** Moments `[…, 2C]`, mean before log variance → scaled posterior sample `[…, C]` (diffusers:src/diffusers/models/autoencoders/vae.py). */
export function samplePosterior(moments: Float32Array, channels: number, noise: Float32Array, scalingFactor: number): Float32Array {
  const latents = new Float32Array(noise.length)
  for (let i = 0; i < latents.length; i++) {
    const at = i + Math.floor(i / channels) * channels
    const logVariance = Math.min(20, Math.max(-30, moments[at + channels] as number))
    latents[i] = ((moments[at] as number) + Math.exp(logVariance / 2) * (noise[i] as number)) * scalingFactor
  }
  return latents
}

/**
 * Encodes every image, mirrored too where `flip` is on; one posterior sample each, as kohya with cached latents. A random crop is drawn
 * once an image, not once a step. Throws `IMAGE_UNREADABLE`, `NAN_LATENTS`.
 */
export async function cacheLatents(
  session: Pick<Session, 'encodeImages'>,
  pictures: Picture[],
  options: LatentsOptions,
  progress: Progress,
): Promise<Latents[]> {
  const { seed, flip, randomCrop, background, factor, scalingFactor } = options
  const variants = flip ? [false, true] : [false]
  const total = pictures.length * variants.length
  let done = 0
  const encode = async ({ path, bucket }: Picture, index: number, mirrored: boolean): Promise<Float32Array> => {
    progress(done++, total)
    const [x = 0, y = 0] = randomCrop ? uniform({ seed, stream: 'crop', index }, 2) : []
    const pixels = await loadImage(path, { bucket, background, mirrored, ...(randomCrop ? { crop: { x, y } } : {}) })
    const moments = await session.encodeImages(pixels.mirrored ?? pixels.plain, [1, bucket.height, bucket.width])
    const channels = (moments.length * factor ** 2) / (2 * bucket.height * bucket.width)
    const noise = normal({ seed, stream: 'posterior', step: Number(mirrored), index }, moments.length / 2)
    const latents = samplePosterior(moments, channels, noise, scalingFactor)
    if (!latents.every(Number.isFinite)) {
      throw new LorafuseError('NAN_LATENTS', `Expected numbers for the latents of ${path} but received NaN; is the model's VAE damaged?`)
    }
    return latents
  }
  const cached: Latents[] = []
  for (const [index, picture] of pictures.entries()) {
    const { width, height } = picture.bucket
    const plain = await encode(picture, index, false)
    const latents: Latents = { height: height / factor, width: width / factor, plain }
    if (flip) latents.mirrored = await encode(picture, index, true)
    cached.push(latents)
  }
  progress(total, total)
  return cached
}

/** Embeddings `[tokens, hiddenSize]` of each different caption. `skip`: how many of the text encoder's last layers are left out. */
export async function cacheText(
  session: Pick<Session, 'encodeText'>,
  tokenizer: Tokenizer,
  captions: Iterable<string>,
  skip: number,
  progress: Progress,
): Promise<Map<string, Float32Array>> {
  const different = [...new Set(captions)]
  const cached = new Map<string, Float32Array>()
  for (const caption of different) {
    progress(cached.size, different.length)
    cached.set(caption, await session.encodeText(tokenizer.encode(caption), 1, skip))
  }
  progress(cached.size, cached.size)
  return cached
}

/** Whether a sample, the `index`th of an update, is mirrored. */
export function isMirrored(seed: number, step: number, index: number): boolean {
  return integer({ seed, stream: 'flip', step, index }, 2) === 1
}
