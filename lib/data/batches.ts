/** Which images each optimizer step trains on: a pure function of seed and step, so that a resumed run continues in the same order. */
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { permutation } from '../random.js'

/** Indices of the images of one batch, all from one bucket. */
export type Batch = number[]

export type BatchOptions = Pick<ResolvedTrainOptions, 'batchSize' | 'gradientAccumulation' | 'seed'>

/**
 * As in kohya (kohya-ss/sd-scripts:library/train_util.py, BaseDataset), each epoch shuffles every bucket, cuts it into batches, of which the
 * last may be short, and shuffles the batches. As in accelerate, an optimizer step takes `gradientAccumulation` batches, fewer at the end of
 * an epoch.
 */
export class Batches {
  readonly batchesPerEpoch: number
  readonly updatesPerEpoch: number
  private epoch = 0
  private order: Batch[] = []

  /** `buckets`: the indices of each bucket's images, each as often as the image repeats. */
  constructor(
    private readonly buckets: number[][],
    private readonly options: BatchOptions,
  ) {
    this.batchesPerEpoch = buckets.reduce((sum, { length }) => sum + Math.ceil(length / options.batchSize), 0)
    this.updatesPerEpoch = Math.ceil(this.batchesPerEpoch / options.gradientAccumulation)
  }

  /** Returns one batch of each bucket, the largest there is. */
  fullest(): Batch[] {
    return this.buckets.map((bucket) => bucket.slice(0, this.options.batchSize))
  }

  /** Returns the epoch of an optimizer step; both count from 1. */
  epochOf(step: number): number {
    return Math.ceil(step / this.updatesPerEpoch)
  }

  /** Returns the batches of an optimizer step; steps count from 1. */
  of(step: number): Batch[] {
    const epoch = this.epochOf(step)
    if (epoch !== this.epoch) this.order = this.shuffle(epoch)
    this.epoch = epoch
    const { gradientAccumulation } = this.options
    const first = ((step - 1) % this.updatesPerEpoch) * gradientAccumulation
    return this.order.slice(first, first + gradientAccumulation)
  }

  private shuffle(epoch: number): Batch[] {
    const { batchSize, seed } = this.options
    const shuffled = <Item>(items: Item[], index: number): Item[] =>
      Array.from(permutation({ seed, stream: 'order', step: epoch, index }, items.length), (i) => items[i] as Item)
    const batches = this.buckets.flatMap((bucket, index) => {
      const images = shuffled(bucket, index)
      return Array.from({ length: Math.ceil(images.length / batchSize) }, (_, i) => images.slice(i * batchSize, (i + 1) * batchSize))
    })
    return shuffled(batches, this.buckets.length)
  }
}
