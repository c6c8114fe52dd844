import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Bucket, bucketSizes, selectBucket } from '../../../lib/data/buckets.js'

const defaults = { buckets: true, bucketMin: 256, bucketMax: 1024, bucketStep: 64, bucketNoUpscale: false }

const flat = ({ width, height, resized }: Bucket) => [width, height, resized.width, resized.height]

test('the predefined sizes of 512 are those of kohya', () => {
  const tall = [
    [256, 832],
    [256, 896],
    [256, 960],
    [256, 1024],
    [320, 704],
    [320, 768],
    [384, 640],
    [448, 576],
  ]
  const wide = tall.map(([width, height]) => [height, width] as [number, number]).sort(([a, b], [c, d]) => a - c || b - d)
  const sizes = bucketSizes({ ...defaults, resolution: 512 }).map(({ width, height }) => [width, height])
  assert.deepEqual(sizes, [...tall, [512, 512], ...wide])
})

// Rows computed with kohya's rule: image, resolution, bucketStep, bucketNoUpscale → bucket, resized.
const rows: [number, number, number, number, boolean, number[]][] = [
  [512, 512, 512, 64, false, [512, 512, 512, 512]],
  [1000, 500, 512, 64, false, [704, 320, 704, 352]],
  [640, 480, 512, 64, false, [576, 448, 597, 448]],
  [1920, 1080, 512, 64, false, [640, 384, 683, 384]],
  [3000, 1000, 512, 64, false, [832, 256, 832, 277]],
  [100, 90, 512, 64, false, [512, 512, 569, 512]],
  [256, 1024, 512, 64, false, [256, 1024, 256, 1024]],
  [5000, 100, 512, 64, false, [1024, 256, 12800, 256]],
  [300, 400, 512, 64, true, [256, 384, 300, 400]],
  [1920, 1080, 512, 64, true, [640, 384, 683, 384]],
  [512, 513, 512, 64, true, [512, 512, 512, 513]],
  [1000, 263, 512, 64, true, [960, 256, 973, 256]],
  // Beyond kohya, which divides by zero where a side is narrower than a step: one step, and the longer side cut to the area.
  [8000, 100, 512, 64, true, [4096, 64, 5120, 64]],
  [10, 30000, 512, 64, true, [64, 4096, 64, 192000]],
  [30000, 1, 512, 64, true, [4096, 64, 1920000, 64]],
]
for (const [width, height, resolution, bucketStep, bucketNoUpscale, expected] of rows) {
  test(`${width}×${height} at ${resolution}${bucketNoUpscale ? ' without enlarging' : ''} trains at ${expected[0]}×${expected[1]}`, () => {
    assert.deepEqual(flat(selectBucket({ width, height }, { ...defaults, resolution, bucketStep, bucketNoUpscale })), expected)
  })
}

test('a resolution below the shortest side still has its square', () => {
  assert.deepEqual(bucketSizes({ ...defaults, resolution: 128 }), [{ width: 128, height: 128 }])
  assert.deepEqual(flat(selectBucket({ width: 300, height: 200 }, { ...defaults, resolution: 128 })), [128, 128, 192, 128])
})

test('without buckets every image trains at the square', () => {
  const options = { ...defaults, resolution: 512, buckets: false, bucketNoUpscale: true }
  assert.deepEqual(flat(selectBucket({ width: 1000, height: 500 }, options)), [512, 512, 1024, 512])
})

test('any image gets a bucket of whole steps within the area, which its resized self covers without distortion', () => {
  const side = fc.integer({ min: 1, max: 8000 })
  const options = fc.record({
    resolution: fc.integer({ min: 64, max: 1536 }),
    bucketMin: fc.constant(256),
    bucketMax: fc.constant(1024),
    bucketStep: fc.constantFrom(8, 32, 64),
    buckets: fc.boolean(),
    bucketNoUpscale: fc.boolean(),
  })
  fc.assert(
    fc.property(side, side, options, (width, height, options) => {
      const bucket = selectBucket({ width, height }, options)
      const { resized } = bucket
      for (const key of ['width', 'height'] as const) {
        assert.ok(bucket[key] > 0 && bucket[key] % options.bucketStep === 0)
        assert.ok(resized[key] >= bucket[key])
      }
      const smallest = Math.max(options.resolution, options.bucketStep) ** 2
      assert.ok(bucket.width * bucket.height <= smallest)
      const scales = [resized.width / width, resized.height / height] as const
      const tolerance = 1 / Math.min(width, height) + 1 / Math.min(resized.width, resized.height)
      assert.ok(Math.abs(scales[0] / scales[1] - 1) <= tolerance, `${scales}`)
      if (
        options.bucketNoUpscale &&
        options.buckets &&
        Math.min(width, height) >= 2 * options.bucketStep &&
        width < 4 * height &&
        height < 4 * width
      ) {
        assert.ok(scales[0] <= 1.01 && scales[1] <= 1.01, `enlarged ${scales}`)
      }
    }),
  )
})
