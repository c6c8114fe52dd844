import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp from 'sharp'
import { normal } from '../../../lib/random.js'
import { cacheLatents, cacheText, isMirrored, type LatentsOptions, type Picture, samplePosterior } from '../../../lib/train/cache.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const silent = () => {}

/** An image of 16 × 8 pixels, its left half black and its right half white, that trains at that size. */
async function halves(folder: string): Promise<Picture> {
  const path = join(folder, 'halves.png')
  const pixels = Uint8Array.from({ length: 8 * 16 * 3 }, (_, i) => (Math.floor(i / 3) % 16 < 8 ? 0 : 255))
  await sharp(pixels, { raw: { width: 16, height: 8, channels: 3 } })
    .png()
    .toFile(path)
  const size = { width: 16, height: 8 }
  return { path, caption: '', repeats: 1, folder: 'x', ...size, bucket: { ...size, resized: size } }
}

/** Moments of two latents: means of the image's halves, log variance −200, whose deviation is e⁻¹⁵. */
const encoder = {
  async encodeImages(pixels: Float32Array, [, height, width]: [number, number, number]) {
    assert.equal(pixels.length, height * width * 3)
    const latent = (x: number) => [...new Array<number>(4).fill(pixels[x * 3]!), ...new Array<number>(4).fill(-200)]
    return Float32Array.from([0, 8].flatMap(latent))
  },
}

const options: LatentsOptions = { seed: 3, flip: false, randomCrop: false, background: [0, 0, 0], factor: 8, scalingFactor: 0.5 }

test('the posterior sample is mean + deviation · noise, scaled; the log variance is clamped', () => {
  const moments = Float32Array.of(1, 2, Math.log(4), -200, 3, 4, 0, 200)
  const sample = samplePosterior(moments, 2, Float32Array.of(1, 1, -2, 1), 0.5)
  const expected = [(1 + 2) / 2, (2 + Math.exp(-15)) / 2, (3 - 2) / 2, (4 + Math.exp(10)) / 2]
  for (const [i, value] of expected.entries()) assert.ok(Math.abs(sample[i]! / value - 1) < 1e-6)
})

test('latents are scaled and have the shape of their bucket; mirrored ones come from mirrored pixels', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const [latents] = await cacheLatents(encoder, [picture], { ...options, flip: true }, silent)
  assert.deepEqual([latents!.height, latents!.width], [1, 2])
  const rounded = (values: Float32Array) => [...values].map((value) => Math.round(value * 100) / 100)
  assert.deepEqual(rounded(latents!.plain), [-0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5])
  assert.deepEqual(rounded(latents!.mirrored!), [0.5, 0.5, 0.5, 0.5, -0.5, -0.5, -0.5, -0.5])
})

test('each image, and its mirror image, has noise of its own, the same each time', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const flat = { encodeImages: async () => new Float32Array(16) }
  const settings = { ...options, flip: true, scalingFactor: 1 }
  const cached = await cacheLatents(flat, [picture, picture], settings, silent)
  const drawn = cached.flatMap(({ plain, mirrored }) => [plain, mirrored!])
  assert.equal(new Set(drawn.map((values) => values.join())).size, 4)
  assert.deepEqual(drawn[2], normal({ seed: 3, stream: 'posterior', index: 1 }, 8))
  assert.deepEqual(await cacheLatents(flat, [picture, picture], settings, silent), cached)
})

test('a random crop moves within what exceeds the bucket', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const square = { ...picture, bucket: { width: 8, height: 8, resized: { width: 16, height: 8 } } }
  const brightness = async (randomCrop: boolean, seed: number) => {
    let sum = 0
    const session = {
      async encodeImages(pixels: Float32Array) {
        sum = pixels.reduce((total, value) => total + value, 0) / pixels.length
        return new Float32Array(8)
      },
    }
    await cacheLatents(session, [square], { ...options, randomCrop, seed }, silent)
    return sum
  }
  assert.equal(await brightness(false, 1), 0)
  const seen = new Set(await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => brightness(true, seed))))
  assert.ok(seen.size > 2, [...seen].join())
})

test('latents that are no numbers are refused, and the image named', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const session = { encodeImages: async () => new Float32Array(16).fill(Number.NaN) }
  await assert.rejects(cacheLatents(session, [picture], options, silent), { code: 'NAN_LATENTS', message: /halves\.png/ })
})

test('each different caption is encoded once', async () => {
  const encoded: number[] = []
  const session = {
    async encodeText(ids: Int32Array, count: number, skip: number) {
      assert.deepEqual([count, skip], [1, 1])
      encoded.push(ids[0]!)
      return Float32Array.from(ids)
    },
  }
  const encode = (text: string) => Int32Array.of(text.length)
  const tokenizer = { length: 1, bosId: 0, eosId: 1, padId: 1, tokenize: () => [], encode }
  const seen: number[][] = []
  const cached = await cacheText(session, tokenizer, ['cat', '', 'cat', 'bird'], 1, (done, total) => void seen.push([done, total]))
  assert.deepEqual(encoded, [3, 0, 4])
  assert.deepEqual(cached.get('bird'), Float32Array.of(4))
  assert.deepEqual(
    seen,
    [0, 1, 2, 3].map((done) => [done, 3]),
  )
})

test('progress may stop the work before the next image', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  let encoded = 0
  const session = {
    async encodeImages() {
      encoded += 1
      return new Float32Array(16)
    },
  }
  const stop = (done: number) => {
    if (done === 2) throw new Error('stop')
  }
  await assert.rejects(cacheLatents(session, [picture, picture, picture], options, stop), /stop/)
  assert.equal(encoded, 2)
})

test('mirroring is decided by seed, step and place, as often as not', () => {
  const decided = Array.from({ length: 1000 }, (_, step) => isMirrored(1, step, 0))
  const count = decided.filter(Boolean).length
  assert.ok(count > 430 && count < 570)
  assert.notDeepEqual(
    decided.slice(0, 50),
    Array.from({ length: 50 }, (_, step) => isMirrored(1, step, 1)),
  )
})
