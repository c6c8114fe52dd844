/**
 * kohya's aspect-ratio buckets, pure (kohya-ss/sd-scripts:library/model_util.py, make_bucket_resolutions; library/train_util.py,
 * BucketManager). Sizes are in pixels.
 */
import type { ResolvedTrainOptions } from '../options/resolve.js'

export interface Size {
  width: number
  height: number
}

/** The size at which an image trains, and the size to which it is resized before the crop. */
export interface Bucket extends Size {
  /** Covers the bucket, and exceeds it on one side at most, except with `bucketNoUpscale`. */
  resized: Size
}

/**
 * A bucket's area is at most `resolution`², its sides are multiples of `bucketStep`. Without `buckets` every image trains at the square.
 * `bucketMin`, the shortest side, is rounded down to the step and at most `resolution`; `bucketMax`, the longest, is rounded up and at least
 * `resolution`. With `bucketNoUpscale` an image's bucket is its own size, shrunk to the area if larger, rounded down to the step.
 */
export type BucketOptions = Pick<
  ResolvedTrainOptions,
  'resolution' | 'buckets' | 'bucketMin' | 'bucketMax' | 'bucketStep' | 'bucketNoUpscale'
>

/** Returns the shortest and the longest side of a bucket. */
export function bucketSides({ resolution, bucketMin, bucketMax, bucketStep: step }: BucketOptions): { least: number; most: number } {
  return {
    least: Math.max(step, Math.floor(Math.min(bucketMin, resolution) / step) * step),
    most: Math.ceil(Math.max(bucketMax, resolution) / step) * step,
  }
}

/** Lists the predefined sizes by width, then height: the square, and for each width the greatest height within the area, both ways round. */
export function bucketSizes(options: BucketOptions): Size[] {
  const { resolution, buckets, bucketStep: step } = options
  const square = Math.max(step, Math.floor(resolution / step) * step)
  if (!buckets) return [{ width: square, height: square }]
  const { least, most } = bucketSides(options)
  const sizes = new Map([[`${square}x${square}`, { width: square, height: square }]])
  for (let width = least; width <= most; width += step) {
    const height = Math.min(most, Math.floor(resolution ** 2 / width / step) * step)
    if (height < least) continue
    sizes.set(`${width}x${height}`, { width, height })
    sizes.set(`${height}x${width}`, { width: height, height: width })
  }
  return [...sizes.values()].sort((a, b) => a.width - b.width || a.height - b.height)
}

const round = (value: number) => Math.floor(value + 0.5)

/** Finds the predefined size that is the image's own, or else the one of the nearest aspect ratio, the first of equals. */
function nearest(image: Size, sizes: Size[]): Size {
  const ratio = image.width / image.height
  let [best, least] = [image, Infinity]
  for (const size of sizes) {
    if (size.width === image.width && size.height === image.height) return size
    const error = Math.abs(size.width / size.height - ratio)
    if (error < least) [best, least] = [size, error]
  }
  return best
}

/** Scales `image` to cover `size`, one side exactly. */
function cover(image: Size, size: Size): Size {
  const scale = image.width / image.height > size.width / size.height ? size.height / image.height : size.width / image.width
  return { width: round(image.width * scale), height: round(image.height * scale) }
}

/** Shrinks `image` to the area and makes one side a multiple of the step: the side with which the aspect ratio changes less. */
function shrink(image: Size, area: number, step: number): Size {
  if (image.width * image.height <= area) return image
  const ratio = image.width / image.height
  const width = Math.sqrt(area * ratio)
  const rounded = (side: number) => Math.max(step, round(side) - (round(side) % step))
  const byWidth = rounded(width)
  const byHeight = rounded(area / width)
  const widthError = Math.abs(byWidth / rounded(byWidth / ratio) - ratio)
  const heightError = Math.abs(rounded(byHeight * ratio) / byHeight - ratio)
  return widthError < heightError
    ? { width: byWidth, height: round(byWidth / ratio) }
    : { width: round(byHeight * ratio), height: byHeight }
}

/**
 * Chooses the bucket of an image of this size, upright. With `bucketNoUpscale`, an image narrower than a step is enlarged to one all the same, and
 * what then exceeds the area is cut off its longer side; kohya divides by zero there, or trains more than the area. `sizes`: `bucketSizes` of
 * the options.
 */
export function selectBucket(image: Size, options: BucketOptions, sizes: Size[] = bucketSizes(options)): Bucket {
  const { resolution, buckets, bucketStep: step, bucketNoUpscale } = options
  if (!bucketNoUpscale || !buckets) {
    const size = nearest(image, sizes)
    return { ...size, resized: cover(image, size) }
  }
  const resized = shrink(image, resolution ** 2, step)
  const floor = (side: number) => Math.max(step, Math.floor(side / step) * step)
  const own = { width: floor(resized.width), height: floor(resized.height) }
  const size =
    own.width > own.height
      ? { ...own, width: Math.min(own.width, floor(resolution ** 2 / own.height)) }
      : { ...own, height: Math.min(own.height, floor(resolution ** 2 / own.width)) }
  const covers = resized.width >= size.width && resized.height >= size.height
  return { ...size, resized: covers ? resized : cover(image, size) }
}
