/**
 * kohya's aspect-ratio buckets, pure (kohya-ss/sd-scripts:library/model_util.py, make_bucket_resolutions; library/train_util.py,
 * BucketManager). Sizes are in pixels.
 */

export interface Size {
  width: number
  height: number
}

/** The size an image trains at, and what it is resized to before it is cropped to that. */
export interface Bucket extends Size {
  /** Covers the bucket; exceeds it on one side at most, save where the image is not enlarged. */
  resized: Size
}

export interface BucketOptions {
  /** A bucket's area is at most `resolution`². */
  resolution: number
  /** Off: every image trains at the square of `resolution`. Default true. */
  enabled?: boolean
  /** Shortest side, default 256; floored to the step and never above `resolution`. */
  minimum?: number
  /** Longest side, default 1024; raised to the step and never below `resolution`. */
  maximum?: number
  /** Sides are multiples of it, default 64. */
  step?: number
  /** Images are never enlarged: a bucket is the image's own size, shrunk to the area where larger, floored to the step. Default false. */
  noUpscale?: boolean
}

/**
 * The predefined sizes, ascending by width, then height: the square, and for each width the greatest height within the area, both ways
 * round.
 */
export function bucketSizes(options: BucketOptions): Size[] {
  const { resolution, enabled = true, minimum = 256, maximum = 1024, step = 64 } = options
  const square = Math.max(step, Math.floor(resolution / step) * step)
  if (!enabled) return [{ width: square, height: square }]
  const least = Math.max(step, Math.floor(Math.min(minimum, resolution) / step) * step)
  const most = Math.ceil(Math.max(maximum, resolution) / step) * step
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

/** The size itself where it is predefined, else the one of the nearest aspect ratio (the first of equals). */
function nearest(image: Size, sizes: Size[]): Size {
  const exact = sizes.find(({ width, height }) => width === image.width && height === image.height)
  if (exact) return exact
  const ratio = image.width / image.height
  const error = ({ width, height }: Size) => Math.abs(width / height - ratio)
  return sizes.reduce((best, size) => (error(size) < error(best) ? size : best))
}

/** `image` scaled to cover `size`, one side exactly. */
function cover(image: Size, size: Size): Size {
  const scale = image.width / image.height > size.width / size.height ? size.height / image.height : size.width / image.width
  return { width: round(image.width * scale), height: round(image.height * scale) }
}

/** `image` shrunk to the area, one side a multiple of the step: the side that keeps the aspect ratio better. */
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
 * The bucket of an image of this size, upright. With `noUpscale` an image narrower than one step is enlarged after all: no bucket is empty.
 */
export function selectBucket(image: Size, options: BucketOptions): Bucket {
  const { resolution, enabled = true, step = 64, noUpscale = false } = options
  if (!noUpscale || !enabled) {
    const size = nearest(image, bucketSizes(options))
    return { ...size, resized: cover(image, size) }
  }
  const resized = shrink(image, resolution ** 2, step)
  const size = {
    width: Math.max(step, resized.width - (resized.width % step)),
    height: Math.max(step, resized.height - (resized.height % step)),
  }
  const covers = resized.width >= size.width && resized.height >= size.height
  return { ...size, resized: covers ? resized : cover(image, size) }
}
