import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp, { type Sharp } from 'sharp'
import { selectBucket } from '../../../lib/data/buckets.js'
import { type LoadOptions, loadImage, probeImage, shrinkByArea } from '../../../lib/data/images.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** Loads over white, without the mirror image, unless told otherwise. */
const load = (path: string, options: Pick<LoadOptions, 'bucket'> & Partial<LoadOptions>) =>
  loadImage(path, { background: [255, 255, 255], mirrored: false, ...options })
const plain = async (...call: Parameters<typeof load>) => (await load(...call)).plain

const bucket = (width: number, height: number, resized = { width, height }) => ({ width, height, resized })

/** Pixels [height, width, 3] whose red grows to the right and green downwards. */
function gradient(width: number, height: number): Sharp {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => {
    const [x, y, c] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3]
    return c === 0 ? x : c === 1 ? y : 7 * ((x * y) % 29)
  })
  return sharp(data, { raw: { width, height, channels: 3 } })
}

/** A TIFF of 4 × 4 pixels with 8-bit samples, interleaved; photometric 1 is grey, 2 RGB, 5 CMYK (TIFF 6.0). */
function tiff(samples: number, photometric: 1 | 2 | 5): Uint8Array {
  const extra = samples - { 1: 1, 2: 3, 5: 4 }[photometric]
  const tags: number[][] = [
    [256, 4],
    [257, 4],
    [258, ...new Array<number>(samples).fill(8)],
    [259, 1],
    [262, photometric],
    [273, 300],
  ]
  tags.push([277, samples], [278, 4], [279, 16 * samples], ...(extra > 0 ? [[338, ...new Array<number>(extra).fill(0)]] : []))
  const file = Buffer.alloc(300 + 16 * samples, 77)
  file.write('II*\0\x08\0\0\0', 'latin1')
  let [at, free] = [file.writeUInt16LE(tags.length, 8), 200]
  for (const [tag = 0, ...values] of tags) {
    for (const value of [tag, 3]) at = file.writeUInt16LE(value, at)
    at = file.writeUInt32LE(values.length, at)
    const inline = values.length <= 2
    if (!inline) file.writeUInt32LE(free, at)
    for (const [i, value] of values.entries()) file.writeUInt16LE(value, (inline ? at : free) + 2 * i)
    free += inline ? 0 : 2 * values.length
    at += 4
  }
  file.writeUInt32LE(0, at)
  return file
}

/** Bytes 0…255 again. */
const bytes = (pixels: Float32Array) => [...pixels].map((value) => Math.round((value + 1) * 127.5))

test('pixels of an image that fits come back unchanged, in [−1, 1]', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  await gradient(20, 10).png().toFile(path)
  const pixels = await plain(path, { bucket: bucket(20, 10) })
  assert.equal(pixels.length, 10 * 20 * 3)
  assert.deepEqual(bytes(pixels), [...(await gradient(20, 10).raw().toBuffer())])
  assert.ok(Math.abs((pixels[3] as number) - (1 / 127.5 - 1)) < 1e-7)
})

test('an image is turned as its EXIF orientation says', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  const upright = [...(await gradient(20, 10).raw().toBuffer())]
  // Orientation 6 is shown turned right by 90°, so the file holds it turned left.
  const turned = await gradient(20, 10).rotate(-90).raw().toBuffer()
  await sharp(turned, { raw: { width: 10, height: 20, channels: 3 } })
    .withMetadata({ orientation: 6 })
    .png()
    .toFile(path)
  assert.deepEqual(await probeImage(path), { width: 20, height: 10 })
  assert.deepEqual(bytes(await plain(path, { bucket: bucket(20, 10) })), upright)
})

test('what exceeds the bucket is cut at the centre, or where the caller says', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  await gradient(25, 16).png().toFile(path)
  const cut = bucket(16, 16, { width: 25, height: 16 })
  const left = async (x?: number) => {
    const pixels = bytes(await plain(path, { bucket: cut, ...(x === undefined ? {} : { crop: { x, y: x } }) }))
    assert.equal(pixels[1], 0)
    assert.equal((pixels[15 * 3] as number) - (pixels[0] as number), 15)
    return pixels[0]
  }
  assert.equal(await left(), 4)
  assert.equal(await left(0), 0)
  assert.equal(await left(0.55), 5)
  assert.equal(await left(0.999), 9)
})

test('the mirror image exchanges left and right after the cut, and comes only when asked for', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  await gradient(25, 16).png().toFile(path)
  const options = { bucket: bucket(16, 16, { width: 25, height: 16 }), crop: { x: 0.3, y: 0 } }
  const { plain, mirrored } = await load(path, { ...options, mirrored: true })
  assert.deepEqual(await load(path, options), { plain })
  for (let y = 0; y < 16; y++) {
    for (let x = 0; x < 16; x++) for (let c = 0; c < 3; c++) assert.equal(mirrored![(y * 16 + x) * 3 + c], plain[(y * 16 + 15 - x) * 3 + c])
  }
})

test('the background shows through transparent pixels', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  const rgba = Uint8Array.from([255, 0, 0, 255, 0, 255, 0, 0, 0, 0, 255, 128, 9, 9, 9, 0])
  await sharp(rgba, { raw: { width: 2, height: 2, channels: 4 } })
    .png()
    .toFile(path)
  assert.deepEqual(bytes(await plain(path, { bucket: bucket(2, 2) })), [255, 0, 0, 255, 255, 255, 127, 127, 255, 255, 255, 255])
  const dark = bytes(await plain(path, { bucket: bucket(2, 2), background: [10, 20, 30] }))
  assert.deepEqual(dark.slice(0, 6), [255, 0, 0, 10, 20, 30])
})

test('grey, palette, 16-bit, CMYK and wide-gamut images become 8-bit sRGB', async (t) => {
  const folder = await temporaryFolder(t)
  const solid = (r: number, g: number, b: number) => sharp({ create: { width: 16, height: 16, channels: 3, background: { r, g, b } } })
  const files: Record<string, [Sharp, number[], number]> = {
    'grey.png': [solid(90, 90, 90).toColourspace('b-w').png(), [90, 90, 90], 0],
    'palette.png': [solid(200, 100, 50).png({ palette: true }), [200, 100, 50], 0],
    'deep.png': [solid(200, 100, 50).toColourspace('rgb16').png(), [200, 100, 50], 1],
    'deepgrey.png': [solid(90, 90, 90).toColourspace('grey16').png(), [90, 90, 90], 1],
    'cmyk.jpg': [solid(150, 120, 100).toColourspace('cmyk').jpeg({ quality: 100 }), [150, 120, 100], 12],
    'p3.png': [solid(200, 100, 50).withIccProfile('p3').png(), [200, 100, 50], 2],
    'a.webp': [solid(200, 100, 50).webp({ lossless: true }), [200, 100, 50], 0],
    'a.gif': [solid(200, 100, 50).gif(), [200, 100, 50], 2],
    'a.tif': [solid(200, 100, 50).tiff({ compression: 'lzw' }), [200, 100, 50], 0],
    'a.avif': [solid(200, 100, 50).avif({ effort: 1, quality: 90 }), [200, 100, 50], 3],
  }
  for (const [name, [image, colour, tolerance]] of Object.entries(files)) {
    const path = join(folder, name)
    await image.toFile(path)
    assert.deepEqual(await probeImage(path), { width: 16, height: 16 }, name)
    const pixels = bytes(await plain(path, { bucket: bucket(16, 16) }))
    assert.equal(pixels.length, 16 * 16 * 3, name)
    const near = (value: number, i: number) => Math.abs(value - (colour[i % 3] as number)) <= tolerance
    assert.ok(pixels.every(near), `${name}: ${pixels.slice(0, 3)}`)
  }
})

test('shrinking averages the area that each pixel covers', () => {
  const image = Uint8Array.from([0, 60, 120, 180, 240].flatMap((value) => [value, 255 - value, 7]))
  // 5 → 2: each pixel covers 2.5 of them.
  const half = shrinkByArea(Uint8Array.from([...image, ...image]), { width: 5, height: 2 }, { width: 2, height: 1 })
  const left = (0 + 60 + 120 / 2) / 2.5
  const right = (120 / 2 + 180 + 240) / 2.5
  assert.deepEqual([...half], [left, 255 - left, 7, right, 255 - right, 7].map(Math.round))
})

test('shrinking keeps the mean and a flat colour, for any ratio', async () => {
  const [width, height] = [97, 61]
  const data = await gradient(width, height).raw().toBuffer()
  const flat = new Uint8Array(width * height * 3).fill(201)
  const mean = (values: Uint8Array) => values.reduce((sum, value) => sum + value, 0) / values.length
  for (let size = 1; size <= 61; size++) {
    assert.ok(shrinkByArea(flat, { width, height }, { width: size + 3, height: size }).every((value) => value === 201))
    const shrunk = shrinkByArea(data, { width, height }, { width: size + 3, height: size })
    assert.ok(Math.abs(mean(shrunk) - mean(data)) < 0.5)
  }
})

const rules = { resolution: 128, buckets: true, bucketMin: 128, bucketMax: 1024, bucketStep: 64, bucketNoUpscale: false }

test('a larger and a smaller image both fill their bucket', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  for (const [width, height] of [
    [250, 190],
    [40, 90],
    [128, 127],
  ] as const) {
    await gradient(width, height).png().toFile(path)
    const size = await probeImage(path)
    const pixels = await plain(path, { bucket: selectBucket(size, rules) })
    assert.equal(pixels.length, 128 * 128 * 3)
    // The gradient of red still goes from left to right.
    assert.ok((pixels[127 * 3] as number) > (pixels[0] as number))
  }
})

test('a file that changed is read anew', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  await gradient(8, 8).png().toFile(path)
  await plain(path, { bucket: bucket(8, 8) })
  await gradient(9, 8).negate().png().toFile(path)
  assert.deepEqual(await probeImage(path), { width: 9, height: 8 })
})

test('a file without an image header is found by the probe, damage behind the header by loading', async (t) => {
  const folder = await temporaryFolder(t)
  const image = gradient(200, 150)
  const whole = { 'a.jpg': await image.jpeg().toBuffer(), 'a.png': await image.png().toBuffer(), 'a.webp': await image.webp().toBuffer() }
  const expected = (name: string) => ({ name: 'LorafuseError', code: 'IMAGE_UNREADABLE', message: new RegExp(name) })
  const headless: [string, Uint8Array][] = [
    ['empty.png', Buffer.alloc(0)],
    ['text.png', Buffer.from('not an image')],
    ['zeros.jpg', Buffer.alloc(5000)],
    ['drawing.png', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
    ['cut.png', whole['a.png'].subarray(0, 20)],
  ]
  for (const [name, data] of headless) {
    const path = join(folder, name)
    await writeFile(path, data)
    await assert.rejects(probeImage(path), expected(name), name)
  }
  await assert.rejects(probeImage(join(folder, 'none.png')), { code: 'IMAGE_UNREADABLE', message: /ENOENT/ })
  const damaged: [string, Uint8Array][] = []
  for (const [name, data] of Object.entries(whole)) {
    for (const part of [0.02, 0.3, 0.6, 0.95]) damaged.push([`${part}-${name}`, data.subarray(0, Math.floor(data.length * part))])
  }
  const flipped = Buffer.from(whole['a.png'])
  flipped[flipped.length >> 1] = (flipped[flipped.length >> 1] as number) ^ 0x55
  damaged.push(['flipped.png', flipped])
  for (const [name, data] of damaged) {
    const path = join(folder, name)
    await writeFile(path, data)
    await assert.rejects(load(path, { bucket: bucket(200, 150) }), expected(name), name)
    await assert.rejects(load(path, { bucket: bucket(64, 64, { width: 85, height: 64 }) }), expected(name), name)
  }
})

test('an image with more channels than its colour space and alpha is refused by its header', async (t) => {
  const folder = await temporaryFolder(t)
  for (const [samples, photometric, refused] of [
    [2, 1, false],
    [3, 1, true],
    [4, 2, false],
    [5, 2, true],
    [5, 5, false],
  ] as const) {
    const path = join(folder, 'a.tif')
    await writeFile(path, tiff(samples, photometric))
    const [probed, loaded] = await Promise.allSettled([probeImage(path), load(path, { bucket: bucket(4, 4) })])
    assert.deepEqual(
      [probed.status, loaded.status],
      refused ? ['rejected', 'rejected'] : ['fulfilled', 'fulfilled'],
      `${samples} ${photometric}`,
    )
  }
})
