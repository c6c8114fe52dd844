/** Prepares a list of images for training: buckets, batches, and the hash by which a state recognises them. */
import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import { Batches, type BatchOptions } from '../data/batches.js'
import { type Bucket, type BucketOptions, selectBucket } from '../data/buckets.js'
import type { DatasetItem } from '../data/dataset.js'
import { loadImage } from '../data/images.js'
import type { LorafuseError } from '../errors.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'

/** An image and the size at which it trains. */
export interface TrainingImage extends DatasetItem {
  bucket: Bucket
}

export function assignBuckets(items: DatasetItem[], options: BucketOptions): TrainingImage[] {
  return items.map((item) => ({ ...item, bucket: selectBucket(item, options) }))
}

/** Groups images by bucket into batches; an image is in an epoch as often as it repeats. */
export function makeBatches(images: TrainingImage[], options: BatchOptions): Batches {
  const buckets = new Map<string, number[]>()
  for (const [index, { bucket, repeats }] of images.entries()) {
    const size = `${bucket.width}x${bucket.height}`
    const members = buckets.get(size) ?? []
    for (let i = 0; i < repeats; i++) members.push(index)
    buckets.set(size, members)
  }
  return new Batches([...buckets.values()], options)
}

/** Hashes the images' names, sizes, repeats and captions (sha256), but not their paths, so the folder may be moved. */
export function hashImages(images: TrainingImage[]): string {
  const described = images.map(({ path, folder, width, height, repeats, caption }) => [
    ...[images.every((other) => other.folder === folder) ? '' : folder, basename(path)],
    ...[width, height, repeats, caption],
  ])
  return createHash('sha256').update(JSON.stringify(described)).digest('hex')
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
      if ((error as LorafuseError).code !== 'IMAGE_UNREADABLE') throw error
    }
  }
  return usable
}
