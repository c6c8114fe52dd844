/** The images of a training: their buckets, what an epoch sees of them, and how a state recognises them. */
import { createHash } from 'node:crypto'
import { basename } from 'node:path'
import { Batches } from '../data/batches.js'
import { type Bucket, selectBucket } from '../data/buckets.js'
import type { DatasetItem } from '../data/dataset.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'

/** An image and the size it trains at. */
export interface TrainingImage extends DatasetItem {
  bucket: Bucket
}

export type BucketSettings = Pick<
  ResolvedTrainOptions,
  'resolution' | 'buckets' | 'bucketMin' | 'bucketMax' | 'bucketStep' | 'bucketNoUpscale'
>

export function assignBuckets(items: DatasetItem[], options: BucketSettings): TrainingImage[] {
  const { resolution, buckets, bucketMin, bucketMax, bucketStep, bucketNoUpscale } = options
  const rules = { resolution, enabled: buckets, minimum: bucketMin, maximum: bucketMax, step: bucketStep, noUpscale: bucketNoUpscale }
  return items.map((item) => ({ ...item, bucket: selectBucket(item, rules) }))
}

/** The batches of images, which count as often as they repeat. */
export function makeBatches(
  images: TrainingImage[],
  options: Pick<ResolvedTrainOptions, 'batchSize' | 'gradientAccumulation' | 'seed'>,
): Batches {
  const buckets = new Map<string, number[]>()
  for (const [index, { bucket, repeats }] of images.entries()) {
    const size = `${bucket.width}x${bucket.height}`
    const members = buckets.get(size) ?? []
    for (let i = 0; i < repeats; i++) members.push(index)
    buckets.set(size, members)
  }
  return new Batches([...buckets.values()], options)
}

/** sha256 of the images' names, sizes, repeats and captions; not of their places, so that the folder may move. */
export function hashImages(images: TrainingImage[]): string {
  const described = images.map(({ path, folder, width, height, repeats, caption }) => [
    ...[images.every((other) => other.folder === folder) ? '' : folder, basename(path)],
    ...[width, height, repeats, caption],
  ])
  return createHash('sha256').update(JSON.stringify(described)).digest('hex')
}
