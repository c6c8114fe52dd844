import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import fc from 'fast-check'
import { Batches, type BatchOptions, type Member } from '../../../lib/data/batches.js'
import { uniform } from '../../../lib/random.js'

/** Buckets of images, no image in two buckets. */
const buckets = fc
  .array(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 4 })
  .map((sizes) => {
    let index = 0
    return sizes.map((repeats) => repeats.map((count): Member => ({ index: index++, repeats: count })))
  })
const options = fc.record({
  batchSize: fc.integer({ min: 1, max: 5 }),
  gradientAccumulation: fc.integer({ min: 1, max: 4 }),
  seed: fc.nat(),
})

const sorted = (values: number[]) => [...values].sort((a, b) => a - b)
const expanded = (bucket: Member[]) => bucket.flatMap(({ index, repeats }) => new Array<number>(repeats).fill(index))
const once = (indices: Iterable<number>) => Array.from(indices, (index) => ({ index, repeats: 1 }))

/** All updates of an epoch. */
async function epochOf(batches: Batches, epoch: number): Promise<number[][][]> {
  const updates: number[][][] = []
  for (let i = 1; i <= batches.updatesPerEpoch; i++) updates.push(await batches.of((epoch - 1) * batches.updatesPerEpoch + i))
  return updates
}

test('every epoch shows each image as often as it repeats, in batches of one bucket, all full but the last', async () => {
  await fc.assert(
    fc.asyncProperty(buckets, options, fc.integer({ min: 1, max: 3 }), async (members, settings, epoch) => {
      const batches = new Batches(members, settings)
      const images = members.map(expanded)
      const first = (epoch - 1) * batches.updatesPerEpoch + 1
      const updates = await epochOf(batches, epoch)
      const seen = updates.flat()
      assert.equal(seen.length, batches.batchesPerEpoch)
      assert.deepEqual(sorted(seen.flat()), sorted(images.flat()))
      for (const update of updates.slice(0, -1)) assert.equal(update.length, settings.gradientAccumulation)
      for (const bucket of images) {
        const own = seen.filter((batch) => batch.some((image) => bucket.includes(image)))
        assert.ok(own.every((batch) => batch.every((image) => bucket.includes(image))))
        const short = own.filter(({ length }) => length < settings.batchSize)
        assert.ok(short.length <= 1 && own.every(({ length }) => length <= settings.batchSize))
      }
      assert.ok([first, first + batches.updatesPerEpoch - 1].every((step) => batches.epochOf(step) === epoch))
    }),
  )
})

/** The order as it is defined: a list with one entry a repeat, shuffled, cut and shuffled. */
function defined(members: Member[][], { batchSize, seed }: BatchOptions, epoch: number): number[][] {
  const shuffled = <Item>(items: Item[], index: number): Item[] => {
    const order = [...items]
    const drawn = uniform({ seed, stream: 'order', step: epoch, index }, items.length)
    for (let i = items.length - 1; i > 0; i--) {
      const j = Math.floor(drawn[i]! * (i + 1))
      ;[order[i], order[j]] = [order[j]!, order[i]!]
    }
    return order
  }
  const batches = members.flatMap((bucket, index) => {
    const images = shuffled(expanded(bucket), index)
    return Array.from({ length: Math.ceil(images.length / batchSize) }, (_, i) => images.slice(i * batchSize, (i + 1) * batchSize))
  })
  return shuffled(batches, members.length)
}

test('the order of a seed is that of a list with one entry a repeat', async () => {
  await fc.assert(
    fc.asyncProperty(buckets, options, fc.integer({ min: 1, max: 3 }), async (members, settings, epoch) => {
      assert.deepEqual((await epochOf(new Batches(members, settings), epoch)).flat(), defined(members, settings, epoch))
    }),
  )
})

test('an update is the same whatever was asked for before, or at the same time', async () => {
  await fc.assert(
    fc.asyncProperty(buckets, options, fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 5 }), async (images, settings, before) => {
      const asked = new Batches(images, settings)
      const asking = before.map((step) => asked.of(step))
      assert.deepEqual(await asked.of(17), await new Batches(images, settings).of(17))
      assert.deepEqual(await Promise.all(asking), await Promise.all(before.map((step) => new Batches(images, settings).of(step))))
    }),
  )
})

test('epochs and seeds differ in order', async () => {
  const images = [once(Array(20).keys())]
  const settings = { batchSize: 20, gradientAccumulation: 1, seed: 1 }
  const orders = await Promise.all([
    ...[1, 2, 3].map((step) => new Batches(images, settings).of(step)),
    new Batches(images, { ...settings, seed: 2 }).of(1),
  ])
  assert.equal(new Set(orders.map((batches) => batches.join())).size, 4)
})

test('one image is an epoch of one update', async () => {
  const batches = new Batches([once([0])], { batchSize: 4, gradientAccumulation: 3, seed: 0 })
  assert.equal(batches.updatesPerEpoch, 1)
  assert.deepEqual(await batches.of(5), [[0]])
  assert.equal(batches.epochOf(5), 5)
  assert.deepEqual(batches.fullest(), [[0]])
})

test('batches have as many shapes as buckets have full and short ones', () => {
  const shapes = (batchSize: number) =>
    new Batches([once([0, 1, 2]), once([3, 4]), [{ index: 5, repeats: 4 }]], { batchSize, gradientAccumulation: 1, seed: 0 }).shapes
  assert.deepEqual([1, 2, 3, 4, 5].map(shapes), [3, 4, 4, 3, 3])
})

test('an epoch of millions of samples takes four bytes for each, and lets others have their turn', async () => {
  const batches = new Batches([[{ index: 7, repeats: 2_000_000 }], once([1, 2])], { batchSize: 2, gradientAccumulation: 1, seed: 0 })
  assert.deepEqual(batches.fullest(), [
    [7, 7],
    [1, 2],
  ])
  let [turns, done] = [0, false]
  const counting = (async () => {
    for (; !done; turns++) await setTimeout(1)
  })()
  const before = process.memoryUsage()
  assert.deepEqual((await batches.of(1)).flat().length, 2)
  done = true
  await counting
  const after = process.memoryUsage()
  assert.ok(turns > 3, `${turns} turns`)
  assert.ok(after.heapUsed - before.heapUsed < 30e6, `${after.heapUsed - before.heapUsed} bytes of objects`)
  assert.ok(after.arrayBuffers - before.arrayBuffers < 60e6, `${after.arrayBuffers - before.arrayBuffers} bytes of arrays`)
})
