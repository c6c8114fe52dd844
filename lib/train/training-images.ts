/** Prepares a list of images for training: buckets, batches, and the hash by which a state recognises them. */
import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import { Batches, type BatchOptions, type Member } from '../data/batches.js'
import { type Bucket, type BucketOptions, bucketSizes, type Size, selectBucket } from '../data/buckets.js'
import type { DatasetItem } from '../data/dataset.js'
import { isBadImage, loadImage } from '../data/images.js'
import { LorafuseError } from '../errors.js'
import { hashFiles } from '../files/hashes.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { mapAtOnce, turns } from '../turns.js'

/** An image and the size at which it trains. */
export interface TrainingImage extends DatasetItem {
  bucket: Bucket
}

/** Counts the images of each bucket; those that hold most come first. */
export function bucketCounts(images: Pick<TrainingImage, 'bucket'>[]): (Size & { images: number })[] {
  const counts = new Map<string, Size & { images: number }>()
  for (const { bucket } of images) {
    const { width, height } = bucket
    const size = `${width}x${height}`
    counts.set(size, { width, height, images: (counts.get(size)?.images ?? 0) + 1 })
  }
  return [...counts.values()].sort((a, b) => b.images - a.images)
}

export async function assignBuckets(items: DatasetItem[], options: BucketOptions, signal?: AbortSignal): Promise<TrainingImage[]> {
  const sizes = bucketSizes(options)
  const turn = turns(signal)
  const images: TrainingImage[] = []
  for (const item of items) {
    images.push({ ...item, bucket: selectBucket(item, options, sizes) })
    await turn()
  }
  return images
}

/** Groups images by bucket into batches; an image is in an epoch as often as it repeats. */
export function makeBatches(images: TrainingImage[], options: BatchOptions): Batches {
  const buckets = new Map<number, Member[]>()
  for (const [index, { bucket, repeats }] of images.entries()) {
    const size = bucket.width * 2 ** 20 + bucket.height
    const members = buckets.get(size) ?? []
    members.push({ index, repeats })
    buckets.set(size, members)
  }
  return new Batches([...buckets.values()], options)
}

/** Returns how many optimizer updates a run has. */
export function stepsOf(
  { updatesPerEpoch }: Pick<Batches, 'updatesPerEpoch'>,
  options: Pick<ResolvedTrainOptions, 'steps' | 'epochs'>,
): number {
  const { steps, epochs } = options
  return epochs === undefined ? steps : epochs * updatesPerEpoch
}

/**
 * Hashes the images' names, sizes, repeats and captions (sha256), but not their paths, so the folder may be moved: the JSON of a list of
 * lists, in pieces. `signal`: stops it.
 */
export async function hashImages(images: TrainingImage[], signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  const turn = turns(signal)
  const several = images.some(({ folder }) => folder !== images[0]?.folder)
  let separator = '['
  for (const { path, folder, width, height, repeats, caption } of images) {
    await turn()
    hash.update(separator + JSON.stringify([several ? folder : '', basename(path), width, height, repeats, caption]))
    separator = ','
  }
  return hash.update(images.length > 0 ? ']' : '[]').digest('hex')
}

/** Files that are hashed at once. */
const AT_ONCE = 4

/**
 * Hashes the bytes of the images' files (sha256). `known`: hashes by paths, to which those that are made are added; a file that cannot be
 * read has none, as it is skipped when it is decoded. Throws `TOO_MANY_FILES`, or the signal's reason.
 */
export async function hashContents(
  images: Pick<TrainingImage, 'path'>[],
  known: Map<string, string>,
  signal?: AbortSignal,
): Promise<string> {
  const hashOf = async ({ path }: Pick<TrainingImage, 'path'>): Promise<string> => {
    const hash =
      known.get(path) ??
      (await hashFiles([path], { signal }).catch((error: unknown) => {
        if (error instanceof LorafuseError && error.code !== 'TOO_MANY_FILES') return ''
        throw error
      }))
    known.set(path, hash)
    return hash
  }
  const hashes = await mapAtOnce(images, AT_ONCE, hashOf, signal)
  return createHash('sha256').update(hashes.join()).digest('hex')
}

/** Leaves out the images that cannot be decoded. */
export async function decodable(
  images: TrainingImage[],
  { background }: Pick<ResolvedTrainOptions, 'background'>,
  signal?: AbortSignal,
): Promise<TrainingImage[]> {
  const usable: TrainingImage[] = []
  for (const image of images) {
    signal?.throwIfAborted()
    try {
      await loadImage(image.path, { bucket: image.bucket, background, mirrored: false })
      usable.push(image)
    } catch (error) {
      if (!isBadImage(error)) throw error
    }
  }
  return usable
}
