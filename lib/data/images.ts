/**
 * Image files to pixels: upright (EXIF), in sRGB, alpha over a background, resized and cropped to a bucket, in [−1, 1].
 * Shrinks by area averaging and enlarges by Lanczos, as kohya-ss/sd-scripts:library/utils.py, resize_image.
 */
import { readFile } from 'node:fs/promises'
import sharp, { type Sharp } from 'sharp'
import { LorafuseError } from '../errors.js'
import type { Bucket, Size } from './buckets.js'

/** Extensions of files taken for images. */
export const IMAGE_EXTENSIONS = ['.png', '.jpg', '.jpeg', '.webp', '.avif', '.gif', '.tif', '.tiff']
const FORMATS = ['png', 'jpeg', 'webp', 'avif', 'heif', 'gif', 'tiff']

/** Red, green, blue, 0 to 255. */
export type Colour = [number, number, number]
export const WHITE: Colour = [255, 255, 255]

export interface LoadOptions {
  bucket: Bucket
  /** What shows through transparent pixels, default white. */
  background?: Colour
  /** Where the bucket is cut from what exceeds it, as fractions in [0, 1); default the centre. */
  crop?: { x: number; y: number }
  /** Mirror left and right. */
  flip?: boolean
}

/** Runs `use` on the decoder of a file; whatever is wrong with the file becomes `IMAGE_UNREADABLE`. */
async function decode<Result>(path: string, use: (image: Sharp) => Promise<Result>): Promise<Result> {
  try {
    // From memory: libvips caches what it reads by name.
    const bytes = await readFile(path)
    if (bytes.length === 0) throw new Error('an empty file')
    return await use(sharp(bytes, { failOn: 'error', autoOrient: true }))
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]
    throw new LorafuseError('IMAGE_UNREADABLE', `Expected a whole image for ${path} but received: ${reason}`, { cause })
  }
}

/** An image's size once upright. Decodes all of it, so that damage is found. Throws `IMAGE_UNREADABLE`. */
export async function probeImage(path: string): Promise<Size> {
  return decode(path, async (image) => {
    const { format, autoOrient } = await image.metadata()
    if (!FORMATS.includes(format)) throw new Error(`${format}, which is none of ${FORMATS.join(', ')}`)
    await image.resize(8, 8, { fit: 'fill' }).raw().toBuffer()
    return { width: autoOrient.width, height: autoOrient.height }
  })
}

/** An image as its bucket takes it, `[height, width, 3]` in [−1, 1]. Throws `IMAGE_UNREADABLE`. */
export async function loadImage(path: string, options: LoadOptions): Promise<Float32Array> {
  const { bucket, background = WHITE, crop, flip = false } = options
  const { resized } = bucket
  return decode(path, async (image) => {
    const { autoOrient } = await image.metadata()
    const [r, g, b] = background
    const pixels = image.flatten({ background: { r, g, b } }).toColourspace('srgb').removeAlpha()
    const shrinks = autoOrient.width >= resized.width && autoOrient.height >= resized.height
    const sized = shrinks ? pixels : pixels.resize(resized.width, resized.height, { fit: 'fill', kernel: 'lanczos3' })
    const { data, info } = await sized.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true })
    if (info.channels !== 3) throw new Error(`${info.channels} channels after conversion to sRGB`)
    const covered = shrinks ? shrinkByArea(data, info, resized) : data
    return cut(covered, resized, bucket, crop, flip)
  })
}

/** Where a crop of `length` begins on a side of `total`; kohya's centre is floored, its random crop uniform over 0…excess. */
function cropStart(total: number, length: number, fraction: number | undefined): number {
  const excess = total - length
  return fraction === undefined ? Math.floor(excess / 2) : Math.min(excess, Math.floor(fraction * (excess + 1)))
}

/** Bytes `[resized.height, resized.width, 3]` → the bucket's part of them in [−1, 1]. */
function cut(data: Uint8Array, resized: Size, { width, height }: Size, crop: LoadOptions['crop'], flip: boolean): Float32Array {
  const left = cropStart(resized.width, width, crop?.x)
  const top = cropStart(resized.height, height, crop?.y)
  const pixels = new Float32Array(height * width * 3)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = ((top + y) * resized.width + left + (flip ? width - 1 - x : x)) * 3
      const to = (y * width + x) * 3
      for (let c = 0; c < 3; c++) pixels[to + c] = (data[from + c] as number) / 127.5 - 1
    }
  }
  return pixels
}

/** For each of `to` pixels made from a row of `from`: the first one that it covers, and what share of it that and the next ones are. */
function coverage(from: number, to: number): { first: number; weights: number[] }[] {
  const scale = from / to
  return Array.from({ length: to }, (_, i) => {
    const begin = i * scale
    // Rounding of i·scale must not add a pixel beyond the last.
    const end = Math.min(from, begin + scale)
    const first = Math.floor(begin)
    const weights: number[] = []
    for (let j = first; j < end - 1e-9; j++) weights.push((Math.min(j + 1, end) - Math.max(j, begin)) / scale)
    return { first, weights }
  })
}

/** Mean over the area that each output pixel covers (OpenCV's INTER_AREA), rows first. `[H, W, 3]` → `[height, width, 3]`. */
export function shrinkByArea(data: Uint8Array, from: Size, to: Size): Uint8Array {
  if (from.width === to.width && from.height === to.height) return data
  const columns = coverage(from.width, to.width)
  const shrunk = new Uint8Array(to.width * to.height * 3)
  const row = new Float32Array(from.width * 3)
  coverage(from.height, to.height).forEach(({ first, weights }, y) => {
    row.fill(0)
    weights.forEach((weight, j) => {
      const start = (first + j) * row.length
      for (let i = 0; i < row.length; i++) row[i] = (row[i] as number) + weight * (data[start + i] as number)
    })
    columns.forEach((column, x) => {
      for (let c = 0; c < 3; c++) {
        let sum = 0
        for (let j = 0; j < column.weights.length; j++) sum += (column.weights[j] as number) * (row[(column.first + j) * 3 + c] as number)
        shrunk[(y * to.width + x) * 3 + c] = Math.round(sum)
      }
    })
  })
  return shrunk
}
