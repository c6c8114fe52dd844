import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp from 'sharp'
import type { DatasetWarning } from '../../../lib/data/skipped.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Inputs } from '../../../lib/native.js'
import { normal } from '../../../lib/random.js'
import { cacheLatents, cacheText, type LatentsOptions, samplePosterior, tokenizeCaptions } from '../../../lib/train/cache.js'
import { isMirrored } from '../../../lib/train/inputs.js'
import type { TrainingImage } from '../../../lib/train/training-images.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const silent = () => {}

/** An image of 16 × 8 pixels, its left half black and its right half white, that trains at that size. */
async function halves(folder: string): Promise<TrainingImage> {
  const path = join(folder, 'halves.png')
  const pixels = Uint8Array.from({ length: 8 * 16 * 3 }, (_, i) => (Math.floor(i / 3) % 16 < 8 ? 0 : 255))
  await sharp(pixels, { raw: { width: 16, height: 8, channels: 3 } })
    .png()
    .toFile(path)
  const size = { width: 16, height: 8 }
  return { path, caption: '', repeats: 1, folder: 'x', ...size, bucket: { ...size, resized: size } }
}

/** Moments of two latents: means of the image's halves, log variance −200, whose deviation is e⁻¹⁵. */
const encoder = session((pixels, [, height, width]) => {
  assert.equal(pixels.length, height! * width! * 3)
  const latent = (x: number) => [...new Array<number>(4).fill(pixels[x * 3]!), ...new Array<number>(4).fill(-200)]
  return Float32Array.from([0, 8].flatMap(latent))
})

/** A session whose VAE makes moments of 4 channels as `encode` says. */
function session(encode: (pixels: Float32Array, shape: number[]) => Float32Array) {
  return {
    async run(network: string, name: string, { pixels }: Inputs) {
      assert.deepEqual([network, name], ['vae', 'encode'])
      const data = encode(pixels!.data as Float32Array, pixels!.shape)
      return [{ shape: [1, 1, data.length / 8, 8], data }]
    },
  }
}

const model = { family: sd1, factor: 8, scalingFactor: 0.5, shiftFactor: 0 }
const options: LatentsOptions = { images: 'x', strict: false, seed: 3, flip: false, randomCrop: false, background: [0, 0, 0] }

/** Caches where no image is damaged. */
async function cached(
  from: Parameters<typeof cacheLatents>[0],
  images: TrainingImage[],
  change: Partial<LatentsOptions> = {},
  scale = model,
) {
  const result = await cacheLatents(from, scale, images, { ...options, ...change }, silent, () => assert.fail('nothing is skipped'))
  assert.deepEqual(result.images, images)
  return result.latents
}

test('the posterior sample is mean + deviation · noise, scaled; the log variance is clamped', () => {
  const moments = Float32Array.of(1, 2, Math.log(4), -200, 3, 4, 0, 200)
  const sample = samplePosterior(moments, 2, Float32Array.of(1, 1, -2, 1), model)
  const expected = [(1 + 2) / 2, (2 + Math.exp(-15)) / 2, (3 - 2) / 2, (4 + Math.exp(10)) / 2]
  for (const [i, value] of expected.entries()) assert.ok(Math.abs(sample[i]! / value - 1) < 1e-6)
  const shifted = samplePosterior(moments, 2, Float32Array.of(1, 1, -2, 1), { ...model, shiftFactor: 1 })
  assert.ok(Math.abs(shifted[0]! - (1 + 2 - 1) / 2) < 1e-6)
})

test('latents are scaled and have the shape of their bucket; mirrored ones come from mirrored pixels', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const [latents] = await cached(encoder, [picture], { flip: true })
  assert.deepEqual([latents!.height, latents!.width], [1, 2])
  const rounded = (values: Float32Array) => [...values].map((value) => Math.round(value * 100) / 100)
  assert.deepEqual(rounded(latents!.plain), [-0.5, -0.5, -0.5, -0.5, 0.5, 0.5, 0.5, 0.5])
  assert.deepEqual(rounded(latents!.mirrored!), [0.5, 0.5, 0.5, 0.5, -0.5, -0.5, -0.5, -0.5])
})

test('each image, and its mirror image, has noise of its own, the same each time', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const flat = session(() => new Float32Array(16))
  const cache = () => cached(flat, [picture, picture], { flip: true }, { ...model, scalingFactor: 1 })
  const latents = await cache()
  const drawn = latents.flatMap(({ plain, mirrored }) => [plain, mirrored!])
  assert.equal(new Set(drawn.map((values) => values.join())).size, 4)
  assert.deepEqual(drawn[2], normal({ seed: 3, stream: 'posterior', index: 1 }, 8))
  assert.deepEqual(await cache(), latents)
})

test('a random crop moves within what exceeds the bucket', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const square = { ...picture, bucket: { width: 8, height: 8, resized: { width: 16, height: 8 } } }
  const brightness = async (randomCrop: boolean, seed: number) => {
    let sum = 0
    const measuring = session((pixels) => {
      sum = pixels.reduce((total, value) => total + value, 0) / pixels.length
      return new Float32Array(8)
    })
    await cached(measuring, [square], { randomCrop, seed })
    return sum
  }
  assert.equal(await brightness(false, 1), 0)
  const seen = new Set(await Promise.all([1, 2, 3, 4, 5, 6].map((seed) => brightness(true, seed))))
  assert.ok(seen.size > 2, [...seen].join())
})

test("an image's sizes are its own, with the crop in the resized image, which a mirror image has on the other side", async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const wide = { ...picture, bucket: { width: 8, height: 8, resized: { width: 19, height: 8 } } }
  const flat = session(() => new Float32Array(8))
  const sizes = (left: number) => ({ original: { width: 16, height: 8 }, target: { width: 8, height: 8 }, crop: { left, top: 0 } })
  const [centred] = await cached(flat, [wide], { flip: true })
  assert.deepEqual(centred!.sizes, { plain: sizes(5), mirrored: sizes(6) })
  const [random] = await cached(flat, [wide], { flip: true, randomCrop: true })
  const { left } = random!.sizes.plain.crop
  assert.notEqual(left, 5)
  assert.deepEqual(random!.sizes, { plain: sizes(left), mirrored: sizes(11 - left) })
})

test('latents that are no numbers are refused, and the image named', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  const broken = session(() => new Float32Array(16).fill(Number.NaN))
  await assert.rejects(cached(broken, [picture]), { code: 'NAN_LATENTS', message: /halves\.png/ })
})

/** `halves` with bytes that are missing behind the header. */
async function damaged(folder: string, name: string): Promise<TrainingImage> {
  const picture = await halves(folder)
  const path = join(folder, name)
  await writeFile(path, (await readFile(picture.path)).subarray(0, 60))
  return { ...picture, path }
}

test('a damaged image is told and left out: what is random is as if it had never been there', async (t) => {
  const folder = await temporaryFolder(t)
  const [first, second] = [await damaged(folder, 'a.png'), await damaged(folder, 'b.png')]
  const picture = await halves(folder)
  const flat = session(() => new Float32Array(16))
  const [warnings, seen]: [DatasetWarning[], number[][]] = [[], []]
  const all = [first, picture, second, picture]
  const change = { ...options, flip: true, randomCrop: true }
  const progress = (done: number, total: number) => void seen.push([done, total])
  const { images, latents } = await cacheLatents(flat, model, all, change, progress, (warning) => void warnings.push(warning))
  assert.deepEqual(images, [picture, picture])
  assert.deepEqual(latents, await cached(flat, [picture, picture], change))
  assert.deepEqual(
    warnings.map(({ code, path }) => [code, path]),
    [first, second].map(({ path }) => ['IMAGE_UNREADABLE', path]),
  )
  assert.match(warnings[0]!.message, /^Expected a whole image for .*a\.png but received: .*; it is skipped$/)
  assert.deepEqual(
    seen.map(([done, total]) => `${done}/${total}`),
    ['0/8', '2/8', '3/8', '4/8', '6/8', '7/8', '8/8'],
  )
})

test('many damaged images have one warning', async (t) => {
  const folder = await temporaryFolder(t)
  const bad = await Promise.all(['a', 'b', 'c', 'd', 'e', 'f'].map((name) => damaged(folder, `${name}.png`)))
  const warnings: DatasetWarning[] = []
  const flat = session(() => new Float32Array(8))
  await cacheLatents(flat, model, [...bad, await halves(folder)], options, silent, (warning) => void warnings.push(warning))
  assert.deepEqual(
    warnings.map(({ code, path, paths }) => [code, path, paths?.length]),
    [['IMAGE_UNREADABLE', folder, 6]],
  )
  assert.match(warnings[0]!.message, / 6 unreadable images: a\.png \(.*\), .*, and 1 more; they are skipped$/)
})

test('where damage is not tolerated all damaged images are named, and where all are damaged too', async (t) => {
  const folder = await temporaryFolder(t)
  const bad = [await damaged(folder, 'a.png'), await damaged(folder, 'b.png')]
  const picture = await halves(folder)
  let encoded = 0
  const counting = session(() => {
    encoded += 1
    return new Float32Array(16)
  })
  const all = [bad[0]!, picture, bad[1]!]
  await assert.rejects(
    cacheLatents(counting, model, all, { ...options, strict: true }, silent, () => assert.fail('nothing is skipped')),
    { code: 'DATASET_NOT_CLEAN', message: /^Expected nothing to skip in x \(strict\) but received 2 bad files:\n.*a\.png.*\n.*b\.png/ },
  )
  assert.equal(encoded, 0)
  await assert.rejects(
    cacheLatents(counting, model, bad, options, silent, () => {}),
    { code: 'NO_IMAGES', message: /^Expected at least one image .*\n.*a\.png.*\n.*b\.png/ },
  )
})

test('each different caption is tokenized and encoded once', async () => {
  const encoded: number[] = []
  const session = {
    async run(network: string, name: string, { ids }: Inputs, settings?: Record<string, number>) {
      assert.deepEqual([network, name, ids!.shape, settings], ['text_encoder', 'encode', [1, 3], { skip: 1, norm: 1, pooled: 0 }])
      encoded.push(ids!.data[0]!)
      return [{ shape: [1, 3, 1], data: Float32Array.from(ids!.data) }]
    },
  }
  const specials = { vocabulary: 1, bosId: 0, eosId: 0, padId: 0 }
  const asked: string[] = []
  const tokenizer = {
    ...{ ...specials, length: 3 },
    ids: (text: string) => {
      asked.push(text)
      return [text.length]
    },
    chunk: ([length]: number[]) => Int32Array.of(length!, 0, 0),
  }
  const model = { family: sd1, tokenizers: { text_encoder: tokenizer } }
  const seen: number[][] = []
  const images = ['cat', '', 'cat', 'bird'].map((caption) => ({ caption }))
  const tokens = await tokenizeCaptions(model, images, { maxTokenLength: 75 })
  const cached = await cacheText(session, model, tokens, { clipSkip: 2 }, (done, total) => void seen.push([done, total]))
  assert.deepEqual(asked, ['cat', '', 'bird'])
  assert.deepEqual(encoded, [3, 0, 4])
  assert.deepEqual(cached.get('bird'), { context: Float32Array.of(4, 0, 0) })
  assert.deepEqual(
    seen,
    [0, 1, 2, 3].map((done) => [done, 3]),
  )
})

test('progress may stop the work before the next image', async (t) => {
  const picture = await halves(await temporaryFolder(t))
  let encoded = 0
  const counting = session(() => {
    encoded += 1
    return new Float32Array(16)
  })
  const stop = (done: number) => {
    if (done === 2) throw new Error('stop')
  }
  const images = [picture, picture, picture]
  await assert.rejects(
    cacheLatents(counting, model, images, options, stop, () => {}),
    /stop/,
  )
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
