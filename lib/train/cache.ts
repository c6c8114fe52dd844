/** What the frozen encoders make of images and captions: computed once, held in memory. */
import { type DatasetWarning, datasetNotClean, noImages } from '../data/dataset.js'
import { loadImage } from '../data/images.js'
import { LorafuseError } from '../errors.js'
import type { Model } from '../models/model.js'
import { encodeText } from '../models/text.js'
import type { Session } from '../native.js'
import type { Colour } from '../options/values.js'
import { normal, uniform } from '../random.js'
import type { TrainingImage } from './images.js'

/** Scaled latents `[h, w, C]` of an image, and of its mirror image where images are mirrored. */
export interface Latents {
  height: number
  width: number
  plain: Float32Array
  mirrored?: Float32Array
}

export interface LatentsOptions {
  /** The folder of images, and whether one that is damaged is refused instead of skipped. */
  images: string
  strict: boolean
  seed: number
  flip: boolean
  randomCrop: boolean
  background: Colour
}

/** Called before each computation with how many are done; may throw to stop. */
export type OnProgress = (done: number, total: number) => void

type Scale = Pick<Model, 'scalingFactor' | 'shiftFactor'>

/**
 * Moments `[…, 2C]`, mean before log variance → posterior sample `[…, C]`, shifted and scaled
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

/**
 * Encodes every image, mirrored too where `flip` is on; one posterior sample each, as kohya with cached latents. A random crop is drawn
 * once an image, not once a step. A damaged image is told to `onSkipped` and left out of the result, whose random numbers are those of a
 * folder without it. Throws `DATASET_NOT_CLEAN` (`strict`, one is damaged), `NO_IMAGES` (all are), `NAN_LATENTS`.
 */
export async function cacheLatents(
  session: Pick<Session, 'run'>,
  model: Scale & Pick<Model, 'factor'>,
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
    const moments = await session.run('vae', 'encode', { pixels: { shape: [1, height, width, 3], data: pixels } })
    const channels = moments.shape.at(-1)! / 2
    const noise = normal({ seed, stream: 'posterior', step: Number(mirrored), index }, moments.data.length / 2)
    const latents = samplePosterior(moments.data, channels, noise, model)
    if (!latents.every(Number.isFinite)) {
      throw new LorafuseError('NAN_LATENTS', `Expected numbers for the latents of ${path} but received NaN; is the model's VAE damaged?`)
    }
    return latents
  }
  const usable: TrainingImage[] = []
  const cached: Latents[] = []
  const damaged: DatasetWarning[] = []
  for (const image of images) {
    const { path, bucket } = image
    const index = cached.length
    onProgress(done, total)
    done += variants
    const [x = 0, y = 0] = randomCrop ? uniform({ seed, stream: 'crop', index }, 2) : []
    const pixels = await loadImage(path, { bucket, background, mirrored: flip, ...(randomCrop ? { crop: { x, y } } : {}) }).catch(
      (error: unknown) => {
        if (!(error instanceof LorafuseError) || error.code !== 'IMAGE_UNREADABLE') throw error
        damaged.push({ code: error.code, message: error.message, path })
        if (!strict) onSkipped({ code: error.code, message: `${error.message}; it is skipped`, path })
      },
    )
    // A strict run ends below, once every image has been looked at.
    if (!pixels || (strict && damaged.length > 0)) continue
    const latents: Latents = {
      height: bucket.height / model.factor,
      width: bucket.width / model.factor,
      plain: await encode(image, pixels.plain, index, false),
    }
    if (pixels.mirrored) {
      onProgress(done - 1, total)
      latents.mirrored = await encode(image, pixels.mirrored, index, true)
    }
    usable.push(image)
    cached.push(latents)
  }
  if (strict && damaged.length > 0) throw datasetNotClean(options.images, damaged)
  if (cached.length === 0) throw noImages(options.images, damaged)
  onProgress(total, total)
  return { images: usable, latents: cached }
}

/** Embeddings `[tokens, contextDim]` of each different caption. */
export async function cacheText(
  session: Pick<Session, 'run'>,
  model: Pick<Model, 'family' | 'tokenizers'>,
  captions: Iterable<string>,
  clipSkip: number,
  onProgress: OnProgress,
): Promise<Map<string, Float32Array>> {
  const different = [...new Set(captions)]
  const cached = new Map<string, Float32Array>()
  for (const caption of different) {
    onProgress(cached.size, different.length)
    cached.set(caption, (await encodeText(session, model, [caption], clipSkip)).data)
  }
  onProgress(cached.size, cached.size)
  return cached
}
