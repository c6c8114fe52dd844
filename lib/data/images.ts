/**
 * Image files to pixels: upright (EXIF), in sRGB, alpha over a background, resized and cropped to a bucket, in [−1, 1].
 * Shrinks by area averaging and enlarges by Lanczos, as kohya-ss/sd-scripts:library/utils.py, resize_image.
 */
import sharp, { type Metadata, type Sharp } from 'sharp'
import { LorafuseError } from '../errors.js'
import { openFile, readRange, readWhole } from '../files/read.js'
import type { Colour } from '../options/values.js'
import { turns } from '../turns.js'
import type { Bucket, Size } from './buckets.js'
import { unsupportedContent } from './formats.js'

const FORMATS = ['png', 'jpeg', 'webp', 'avif', 'heif', 'gif', 'tiff']
const LARGEST_FILE = 2 ** 30
/** libvips' own limit. */
const MOST_PIXELS = 0x3fff ** 2
/** The headers of PNG, JPEG and AVIF, which come before the pixels, are looked for in this many bytes. */
const HEAD = 2 ** 18

/** Most channels, alpha included, of the colour spaces that do not have 4; files with more channels do not convert to sRGB. */
const MOST_CHANNELS: Record<string, number> = { 'b-w': 2, grey16: 2, cmyk: 5 }

/** An image is cropped before it is enlarged where it would be more than this many pixels, and this many times its bucket. */
const MOST_ENLARGED = 2 ** 24
const MOST_EXCESS = 8
/** Pixels beside a new one that Lanczos looks at, each way. */
const SUPPORT = 3

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

/** Whether an error says that an image cannot be used, so that it is skipped or, with `strict`, refused. */
export function isBadImage(error: unknown): error is LorafuseError & { code: 'IMAGE_UNREADABLE' | 'IMAGE_UNSUPPORTED' } {
  return error instanceof LorafuseError && (error.code === 'IMAGE_UNREADABLE' || error.code === 'IMAGE_UNSUPPORTED')
}

/** The error of an image in a format that cannot be read. */
export function unsupported(path: string, format: string): LorafuseError {
  const message = `Expected a PNG, JPEG, WebP, AVIF, GIF or TIFF image for ${path} but received ${format}, which is not supported; convert it`
  return new LorafuseError('IMAGE_UNSUPPORTED', message)
}

function unreadable(path: string, reason: string, cause?: unknown): LorafuseError {
  return new LorafuseError('IMAGE_UNREADABLE', `Expected a whole image for ${path} but received: ${reason}`, { cause })
}

/** What the opening of a file throws, as an error of the image; too many open files are not its fault. */
function notRead(cause: unknown): unknown {
  if (!(cause instanceof LorafuseError) || cause.code === 'TOO_MANY_FILES') return cause
  return new LorafuseError('IMAGE_UNREADABLE', cause.message, { cause })
}

async function readBytes(path: string): Promise<Uint8Array> {
  // Trap: libvips caches files that it opens by name.
  const bytes = await readWhole(path, 'an image', LARGEST_FILE).catch((cause: unknown) => {
    throw notRead(cause)
  })
  if (bytes.length === 0) throw unreadable(path, 'an empty file')
  return bytes
}

/** Runs `use` on the decoder of a file's bytes; whatever is wrong with them becomes `IMAGE_UNREADABLE` or `IMAGE_UNSUPPORTED`. */
async function decode<Result>(path: string, bytes: Uint8Array, use: (image: Sharp) => Promise<Result>): Promise<Result> {
  try {
    return await use(sharp(bytes, { failOn: 'error', autoOrient: true, limitInputPixels: MOST_PIXELS }))
  } catch (cause) {
    if (cause instanceof LorafuseError) throw cause
    const format = unsupportedContent(bytes)
    if (format) throw unsupported(path, format)
    const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n')[0] as string
    if (/no known route|can not handle/.test(reason)) throw unsupported(path, `samples that do not convert to sRGB (${reason})`)
    if (/pixel limit/.test(reason)) throw unsupported(path, `more than ${Math.floor(MOST_PIXELS / 1e6)} megapixels`)
    throw unreadable(path, reason, cause)
  }
}

/** Upright 8-bit sRGB of three channels. */
function converted(image: Sharp, [r, g, b]: Colour): Sharp {
  return image.flatten({ background: { r, g, b } }).toColourspace('srgb').removeAlpha().raw({ depth: 'uchar' })
}

/**
 * Reads the header of a file that begins as a PNG, JPEG or AVIF from its first bytes; undefined where that does not do. The decoders of WebP,
 * GIF and TIFF want the whole file.
 */
async function headOf(path: string): Promise<Metadata | undefined> {
  const file = await openFile(path, 'an image').catch((cause: unknown) => {
    throw notRead(cause)
  })
  try {
    const bytes = await readRange(file, 0, HEAD)
    const isAvif = Buffer.from(bytes.subarray(4, 8)).toString('latin1') === 'ftyp'
    if (bytes[0] !== 0x89 && bytes[0] !== 0xff && !isAvif) return undefined
    return await sharp(bytes, { failOn: 'error', autoOrient: true, limitInputPixels: MOST_PIXELS }).metadata()
  } catch {
    return undefined
  } finally {
    await file.close()
  }
}

function checkHeader(path: string, { format, compression, space, channels, autoOrient }: Metadata): Size {
  if (!FORMATS.includes(format)) throw unsupported(path, format.toUpperCase())
  if (compression === 'hevc') throw unsupported(path, 'HEIC')
  if (channels > (MOST_CHANNELS[space] ?? 4)) throw unsupported(path, `${channels} channels in the colour space ${space}`)
  return { width: autoOrient.width, height: autoOrient.height }
}

/**
 * Reads an image's size, once upright, from its header; damage behind the header is found by `loadImage`. Throws `IMAGE_UNREADABLE`,
 * `IMAGE_UNSUPPORTED`.
 */
export async function probeImage(path: string): Promise<Size> {
  const head = await headOf(path)
  if (head) return checkHeader(path, head)
  return decode(path, await readBytes(path), async (image) => {
    const metadata = await image.metadata()
    const size = checkHeader(path, metadata)
    // A TIFF may hold samples of any number and type, of which the header does not tell what converts.
    if (metadata.format === 'tiff') await converted(image.extract({ left: 0, top: 0, width: 1, height: 1 }), [0, 0, 0]).toBuffer()
    return size
  })
}

/** Decodes an image to find damage. Throws as `loadImage`. */
export async function checkImage(path: string): Promise<void> {
  await decode(path, await readBytes(path), (image) => converted(image, [0, 0, 0]).toBuffer())
}

/** A stretch of a side. */
interface Stretch {
  begin: number
  length: number
}

/** How one side of an image becomes one side of its bucket: the stretch of the source that is enlarged, to `size`, and where the cut begins. */
interface Side {
  source: Stretch
  size: number
  cut: number
}

/** Takes the whole side, or, with `cropped`, the part that the cut needs. */
function side(from: number, to: number, length: number, fraction: number | undefined, cropped: boolean): Side {
  const cut = cropStart(to, length, fraction)
  if (!cropped) return { source: { begin: 0, length: from }, size: to, cut }
  const scale = to / from
  const begin = Math.max(0, Math.floor(cut / scale) - SUPPORT)
  const end = Math.min(from, Math.ceil((cut + length) / scale) + SUPPORT)
  const size = Math.max(length, Math.round((end - begin) * scale))
  return { source: { begin, length: end - begin }, size, cut: Math.min(size - length, Math.round(cut - begin * scale)) }
}

/**
 * Decodes an image and fits it to its bucket. Memory is bounded by the decoded image and a few times the bucket, whatever the shape. Throws
 * `IMAGE_UNREADABLE`, `IMAGE_UNSUPPORTED`.
 */
export async function loadImage(path: string, { bucket, background, crop, mirrored }: LoadOptions): Promise<Pixels> {
  const { resized } = bucket
  return decode(path, await readBytes(path), async (image) => {
    const { autoOrient } = await image.metadata()
    const shrinks = autoOrient.width >= resized.width && autoOrient.height >= resized.height
    const most = Math.max(MOST_ENLARGED, MOST_EXCESS * bucket.width * bucket.height)
    const cropped = !shrinks && resized.width * resized.height > most
    const across = side(autoOrient.width, resized.width, bucket.width, crop?.x, cropped)
    const down = side(autoOrient.height, resized.height, bucket.height, crop?.y, cropped)
    const size = { width: across.size, height: down.size }
    const source = { left: across.source.begin, top: down.source.begin, width: across.source.length, height: down.source.length }
    const taken = cropped ? image.extract(source) : image
    const sized = shrinks ? taken : taken.resize(size.width, size.height, { fit: 'fill', kernel: 'lanczos3' })
    const { data, info } = await converted(sized, background).toBuffer({ resolveWithObject: true })
    if (info.channels !== 3) throw new Error(`${info.channels} channels after conversion to sRGB`)
    const fitted = shrinks ? await shrinkByArea(data, info, resized) : data
    const plain = await cut(fitted, size, { left: across.cut, top: down.cut }, bucket)
    return mirrored ? { plain, mirrored: await mirror(plain, bucket.width) } : { plain }
  })
}

/** Where the bucket is cut out of an image that is resized for it, and out of its mirror image; `crop`: as in `LoadOptions`. */
export function cropOf({ resized, width, height }: Bucket, crop: LoadOptions['crop']) {
  const [left, top] = [cropStart(resized.width, width, crop?.x), cropStart(resized.height, height, crop?.y)]
  return { plain: { left, top }, mirrored: { left: resized.width - width - left, top } }
}

/** Where a crop of `length` begins on a side of `total`: kohya floors the centre and draws a random crop uniformly from 0…excess. */
function cropStart(total: number, length: number, fraction: number | undefined): number {
  const excess = total - length
  return fraction === undefined ? Math.floor(excess / 2) : Math.min(excess, Math.floor(fraction * (excess + 1)))
}

/** Cuts the bucket out of bytes `[size.height, size.width, 3]` and scales it to [−1, 1], in pieces. */
async function cut(data: Uint8Array, size: Size, { left, top }: { left: number; top: number }, { width, height }: Size) {
  const turn = turns()
  const pixels = new Float32Array(height * width * 3)
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * size.width + left) * 3
    for (let i = 0; i < width * 3; i++) pixels[y * width * 3 + i] = (data[from + i] as number) / 127.5 - 1
    await turn()
  }
  return pixels
}

/** Exchanges left and right of pixels `[…, width, 3]`, in pieces. */
async function mirror(pixels: Float32Array, width: number): Promise<Float32Array> {
  const turn = turns()
  const mirrored = new Float32Array(pixels.length)
  for (let row = 0; row < pixels.length; row += width * 3) {
    for (let x = 0; x < width; x++) {
      const [from, to] = [row + x * 3, row + (width - 1 - x) * 3]
      for (let c = 0; c < 3; c++) mirrored[to + c] = pixels[from + c] as number
    }
    await turn()
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

/** Averages the area that each new pixel covers (OpenCV's INTER_AREA), rows first, in pieces. `[H, W, 3]` → `[height, width, 3]`. */
export async function shrinkByArea(data: Uint8Array, from: Size, to: Size): Promise<Uint8Array> {
  if (from.width === to.width && from.height === to.height) return data
  const turn = turns()
  const columns = coverage(from.width, to.width)
  const shrunk = new Uint8Array(to.width * to.height * 3)
  const row = new Float32Array(from.width * 3)
  for (const [y, { first, weights }] of coverage(from.height, to.height).entries()) {
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
    await turn()
  }
  return shrunk
}
