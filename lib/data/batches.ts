/** Which images each update sees: a pure function of seed and step, so that a resumed run goes on in the same order. */
import { permutation } from '../random.js'

/** Indices of the images of one forward pass, all of one bucket. */
export type Batch = number[]

export interface BatchOptions {
  batchSize: number
  gradientAccumulation: number
  seed: number
}

/**
 * As kohya (kohya-ss/sd-scripts:library/train_util.py, BaseDataset): each epoch shuffles every bucket, cuts it into batches, the last of
 * which may be short, and shuffles those. As accelerate, an update takes `gradientAccumulation` of them, or what the epoch has left.
 */
export class Batches {
  readonly batchesPerEpoch: number
  readonly updatesPerEpoch: number
  private epoch = 0
  private order: Batch[] = []

  /** `buckets`: the images of each bucket, each as often as it repeats. */
  constructor(
    private readonly buckets: number[][],
    private readonly options: BatchOptions,
  ) {
    this.batchesPerEpoch = buckets.reduce((sum, { length }) => sum + Math.ceil(length / options.batchSize), 0)
    this.updatesPerEpoch = Math.ceil(this.batchesPerEpoch / options.gradientAccumulation)
  }

  /** A batch of each bucket, as large as its batches get. */
  fullest(): Batch[] {
    return this.buckets.map((bucket) => bucket.slice(0, this.options.batchSize))
  }

  /** The epoch of an update; both count from 1. */
  epochOf(step: number): number {
    return Math.ceil(step / this.updatesPerEpoch)
  }

  /** The batches of an update, which counts from 1. */
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
