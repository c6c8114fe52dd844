import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Batches } from '../../../lib/data/batches.js'

/** Buckets of image indices, no index in two buckets. */
const buckets = fc
  .array(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 4 })
  .map((sizes) => {
    let image = 0
    return sizes.map((repeats) => repeats.flatMap((count) => new Array<number>(count).fill(image++)))
  })
const options = fc.record({
  batchSize: fc.integer({ min: 1, max: 5 }),
  gradientAccumulation: fc.integer({ min: 1, max: 4 }),
  seed: fc.nat(),
})

const sorted = (values: number[]) => [...values].sort((a, b) => a - b)

test('every epoch shows each image as often as it repeats, in batches of one bucket, all full but the last', () => {
  fc.assert(
    fc.property(buckets, options, fc.integer({ min: 1, max: 3 }), (images, settings, epoch) => {
      const batches = new Batches(images, settings)
      const first = (epoch - 1) * batches.updatesPerEpoch + 1
      const updates = Array.from({ length: batches.updatesPerEpoch }, (_, i) => batches.of(first + i))
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

test('an update is the same whatever was asked for before', () => {
  fc.assert(
    fc.property(buckets, options, fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 5 }), (images, settings, before) => {
      const asked = new Batches(images, settings)
      for (const step of before) asked.of(step)
      assert.deepEqual(asked.of(17), new Batches(images, settings).of(17))
    }),
  )
})

test('epochs and seeds differ in order', () => {
  const images = [[...Array(20).keys()]]
  const settings = { batchSize: 20, gradientAccumulation: 1, seed: 1 }
  const orders = [
    ...[1, 2, 3].map((step) => new Batches(images, settings).of(step)),
    new Batches(images, { ...settings, seed: 2 }).of(1),
  ].map((batches) => batches.join())
  assert.equal(new Set(orders).size, 4)
})

test('one image is an epoch of one update', () => {
  const batches = new Batches([[0]], { batchSize: 4, gradientAccumulation: 3, seed: 0 })
  assert.equal(batches.updatesPerEpoch, 1)
  assert.deepEqual(batches.of(5), [[0]])
  assert.equal(batches.epochOf(5), 5)
  assert.deepEqual(batches.fullest(), [[0]])
})
