/** Which images each optimizer step trains on: a pure function of seed and step, so that a resumed run continues in the same order. */
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { shuffle } from '../random.js'
import { turns } from '../turns.js'

/** Indices of the images of one batch, all from one bucket. */
export type Batch = number[]

export type BatchOptions = Pick<ResolvedTrainOptions, 'batchSize' | 'gradientAccumulation' | 'seed'>

/** An image of a bucket. */
export interface Member {
  index: number
  /** How many times an epoch trains on it. */
  repeats: number
}

/** The batches of one epoch. */
interface Order {
  /** Indices of images, each as often as it repeats: bucket after bucket, each in the epoch's order. */
  images: Uint32Array
  /** Where each batch begins in `images`, and where the last one ends. */
  starts: Uint32Array
  /** The batches in the epoch's order. */
  batches: Uint32Array
}

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)

/**
 * As in kohya (kohya-ss/sd-scripts:library/train_util.py, BaseDataset), each epoch shuffles every bucket, cuts it into batches, of which the
 * last may be short, and shuffles the batches. As in accelerate, an optimizer step takes `gradientAccumulation` batches, fewer at the end of
 * an epoch.
 */
export class Batches {
  readonly batchesPerEpoch: number
  readonly updatesPerEpoch: number
  /** How many samples an epoch takes from each bucket. */
  private readonly counts: number[]
  private epoch = 0
  private order: Promise<Order> | undefined

  constructor(
    private readonly buckets: Member[][],
    private readonly options: BatchOptions,
  ) {
    this.counts = buckets.map((bucket) => sum(bucket.map(({ repeats }) => repeats)))
    this.batchesPerEpoch = sum(this.counts.map((count) => Math.ceil(count / options.batchSize)))
    this.updatesPerEpoch = Math.ceil(this.batchesPerEpoch / options.gradientAccumulation)
  }

  /** How many shapes the batches have: in each bucket there are full ones, and a short last one. */
  get shapes(): number {
    const { batchSize } = this.options
    return sum(this.counts.map((count) => Number(count >= batchSize) + Number(count % batchSize > 0)))
  }

  /** Returns one batch of each bucket, the largest there is. */
  fullest(): Batch[] {
    return this.buckets.map((bucket, i) => {
      const batch: Batch = []
      const size = Math.min(this.options.batchSize, this.counts[i] as number)
      for (const { index, repeats } of bucket) for (let j = 0; j < repeats && batch.length < size; j++) batch.push(index)
      return batch
    })
  }

  /** Returns the epoch of an optimizer step; both count from 1. */
  epochOf(step: number): number {
    return Math.ceil(step / this.updatesPerEpoch)
  }

  /** Returns the batches of an optimizer step; steps count from 1. */
  async of(step: number): Promise<Batch[]> {
    const epoch = this.epochOf(step)
    if (epoch !== this.epoch) this.order = this.shuffle(epoch)
    this.epoch = epoch
    const { images, starts, batches } = await (this.order as Promise<Order>)
    const { gradientAccumulation } = this.options
    const first = ((step - 1) % this.updatesPerEpoch) * gradientAccumulation
    return Array.from(batches.subarray(first, first + gradientAccumulation), (i) => Array.from(images.subarray(starts[i], starts[i + 1])))
  }

  private async shuffle(epoch: number): Promise<Order> {
    const { batchSize, seed } = this.options
    const place = (index: number) => ({ seed, stream: 'order', step: epoch, index }) as const
    const images = new Uint32Array(sum(this.counts))
    const starts = new Uint32Array(this.batchesPerEpoch + 1)
    const batches = new Uint32Array(this.batchesPerEpoch)
    const turn = turns()
    let [end, batch] = [0, 0]
    for (const [i, bucket] of this.buckets.entries()) {
      const begin = end
      for (const { index, repeats } of bucket) {
        images.fill(index, end, end + repeats)
        end += repeats
        await turn()
      }
      await shuffle(images.subarray(begin, end), place(i))
      for (let start = begin; start < end; start += batchSize) {
        starts[batch] = start
        batches[batch] = batch
        batch += 1
        if (batch % 65536 === 0) await turn()
      }
    }
    starts[batch] = end
    await shuffle(batches, place(this.buckets.length))
    return { images, starts, batches }
  }
}
