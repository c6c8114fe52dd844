/**
 * Image files to pixels: upright (EXIF), in sRGB, alpha over a background, resized and cropped to a bucket, in [−1, 1].
 * Shrinks by area averaging and enlarges by Lanczos, as kohya-ss/sd-scripts:library/utils.py, resize_image.
 */
import { readFile } from 'node:fs/promises'
import sharp, { type Sharp } from 'sharp'
import { LorafuseError } from '../errors.js'
import type { Colour } from '../options/values.js'
import type { Bucket, Size } from './buckets.js'

/** Extensions of the files that are taken for images. */
export const IMAGE_EXTENSIONS = ['.png', '.jpg', '.jpeg', '.webp', '.avif', '.gif', '.tif', '.tiff']
const FORMATS = ['png', 'jpeg', 'webp', 'avif', 'heif', 'gif', 'tiff']

/** Most channels, alpha included, of the colour spaces that do not have 4; files with more channels do not convert to sRGB. */
const MOST_CHANNELS: Record<string, number> = { 'b-w': 2, grey16: 2, cmyk: 5 }

export interface LoadOptions {
  bucket: Bucket
  /** The colour behind transparent pixels. */
  background: Colour
  /** Where to cut the bucket out of a larger image, as fractions in [0, 1); the centre where it is left out. */
  crop?: { x: number; y: number }
  /** Return the mirror image too. */
  mirrored: boolean
}

/** `[height, width, 3]` in [−1, 1]. */
export interface Pixels {
  plain: Float32Array
  /** Left and right exchanged. */
  mirrored?: Float32Array
}

/** Runs `use` on the decoder of a file; whatever is wrong with the file becomes `IMAGE_UNREADABLE`. */
async function decode<Result>(path: string, use: (image: Sharp) => Promise<Result>): Promise<Result> {
  try {
    // Trap: libvips caches files that it opens by name.
    const bytes = await readFile(path)
    if (bytes.length === 0) throw new Error('an empty file')
    return await use(sharp(bytes, { failOn: 'error', autoOrient: true }))
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n')[0]
    throw new LorafuseError('IMAGE_UNREADABLE', `Expected a whole image for ${path} but received: ${reason}`, { cause })
  }
}

/** Reads an image's size, once upright, from its header; damage behind the header is found by `loadImage`. Throws `IMAGE_UNREADABLE`. */
export async function probeImage(path: string): Promise<Size> {
  return decode(path, async (image) => {
    const { format, space, channels, autoOrient } = await image.metadata()
    if (!FORMATS.includes(format)) throw new Error(`${format}, which is none of ${FORMATS.join(', ')}`)
    if (channels > (MOST_CHANNELS[space] ?? 4)) throw new Error(`${channels} channels in the colour space ${space}`)
    return { width: autoOrient.width, height: autoOrient.height }
  })
}

/** Decodes an image and fits it to its bucket. Throws `IMAGE_UNREADABLE`. */
export async function loadImage(path: string, { bucket, background, crop, mirrored }: LoadOptions): Promise<Pixels> {
  const { resized } = bucket
  return decode(path, async (image) => {
    const { autoOrient } = await image.metadata()
    const [r, g, b] = background
    const pixels = image.flatten({ background: { r, g, b } }).toColourspace('srgb').removeAlpha()
    const shrinks = autoOrient.width >= resized.width && autoOrient.height >= resized.height
    const sized = shrinks ? pixels : pixels.resize(resized.width, resized.height, { fit: 'fill', kernel: 'lanczos3' })
    const { data, info } = await sized.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true })
    if (info.channels !== 3) throw new Error(`${info.channels} channels after conversion to sRGB`)
    const plain = cut(shrinks ? shrinkByArea(data, info, resized) : data, resized, bucket, crop)
    return mirrored ? { plain, mirrored: mirror(plain, bucket.width) } : { plain }
  })
}

/** Where a crop of `length` begins on a side of `total`: kohya floors the centre and draws a random crop uniformly from 0…excess. */
function cropStart(total: number, length: number, fraction: number | undefined): number {
  const excess = total - length
  return fraction === undefined ? Math.floor(excess / 2) : Math.min(excess, Math.floor(fraction * (excess + 1)))
}

/** Cuts the bucket out of bytes `[resized.height, resized.width, 3]` and scales it to [−1, 1]. */
function cut(data: Uint8Array, resized: Size, { width, height }: Size, crop: LoadOptions['crop']): Float32Array {
  const left = cropStart(resized.width, width, crop?.x)
  const top = cropStart(resized.height, height, crop?.y)
  const pixels = new Float32Array(height * width * 3)
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * resized.width + left) * 3
    for (let i = 0; i < width * 3; i++) pixels[y * width * 3 + i] = (data[from + i] as number) / 127.5 - 1
  }
  return pixels
}

/** Exchanges left and right of pixels `[…, width, 3]`. */
function mirror(pixels: Float32Array, width: number): Float32Array {
  const mirrored = new Float32Array(pixels.length)
  for (let i = 0; i < pixels.length / 3; i++) {
    const x = i % width
    mirrored.set(pixels.subarray(i * 3, i * 3 + 3), (i - x + width - 1 - x) * 3)
  }
  return mirrored
}

/** For a row of `from` pixels shrunk to `to`: the first old pixel that each new one covers, and the weights of that and the next ones. */
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

/** Averages the area that each new pixel covers (OpenCV's INTER_AREA), rows first. `[H, W, 3]` → `[height, width, 3]`. */
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
