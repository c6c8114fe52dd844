import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp, { type Sharp } from 'sharp'
import { selectBucket } from '../../../lib/data/buckets.js'
import { probeImage, shrinkByArea } from '../../../lib/data/images.js'
import { bucket, bytes, gradient, load, plain, rules } from '../../fixtures/pixels.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

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

test('an image of an extreme shape is cropped before it is enlarged', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  const before = process.resourceUsage().maxRSS
  for (const [width, height] of [
    [30_000, 1],
    [1, 39_000],
    [3, 20_000],
  ] as const) {
    // Red grows from one end to the other, in steps too small to see within a bucket.
    const data = Uint8Array.from({ length: width * height * 3 }, (_, i) =>
      i % 3 === 0 ? (255 * Math.floor(i / 3)) / (width * height) : 50,
    )
    await sharp(data, { raw: { width, height, channels: 3 } })
      .png()
      .toFile(path)
    for (const bucketNoUpscale of [false, true]) {
      const size = selectBucket(await probeImage(path), { ...rules, bucketNoUpscale })
      for (const [place, red] of [
        [0, 0],
        [undefined, 127],
        [0.9999, 255],
      ] as const) {
        const { plain } = await load(path, { bucket: size, ...(place === undefined ? {} : { crop: { x: place, y: place } }) })
        assert.equal(plain.length, size.width * size.height * 3)
        const pixels = bytes(plain)
        for (let i = 0; i < pixels.length; i += 3) {
          assert.ok(Math.abs(pixels[i]! - red) <= 24, `${width}×${height} at ${place}: ${pixels[i]} at ${i}`)
          assert.ok(Math.abs(pixels[i + 1]! - 50) <= 1)
        }
      }
    }
  }
  assert.ok(process.resourceUsage().maxRSS - before < 300_000, 'memory is bounded by the bucket')
})

test('what is cropped before it is enlarged is nearly what would be cut after it, upright too', async (t) => {
  const folder = await temporaryFolder(t)
  // A wave along the long side, that Lanczos enlarges without steps.
  const [width, height] = [2000, 10]
  const wave = Uint8Array.from({ length: width * height * 3 }, (_, i) => 128 + 100 * Math.sin(Math.floor(i / 3) % width))
  const path = join(folder, 'a.png')
  await sharp(wave, { raw: { width, height, channels: 3 } })
    .png()
    .toFile(path)
  const turned = join(folder, 'b.png')
  const left = await sharp(path).rotate(-90).raw().toBuffer()
  await sharp(left, { raw: { width: height, height: width, channels: 3 } })
    .withMetadata({ orientation: 6 })
    .png()
    .toFile(turned)
  const whole = await sharp(path).resize(60_000, 300, { fit: 'fill', kernel: 'lanczos3' }).raw().toBuffer()
  for (const [place, from] of [
    [0, 0],
    [undefined, 29_850],
    [0.9999, 59_695],
  ] as const) {
    const options = {
      bucket: bucket(300, 300, { width: 60_000, height: 300 }),
      ...(place === undefined ? {} : { crop: { x: place, y: 0 } }),
    }
    for (const file of [path, turned]) {
      const pixels = bytes((await load(file, options)).plain)
      for (let x = 0; x < 300; x++) assert.ok(Math.abs(pixels[3 * x]! - whole[3 * (from + x)]!) <= 4, `${place} ${x}`)
    }
  }
})

test('shrinking averages the area that each pixel covers', async () => {
  const image = Uint8Array.from([0, 60, 120, 180, 240].flatMap((value) => [value, 255 - value, 7]))
  // 5 → 2: each pixel covers 2.5 of them.
  const half = await shrinkByArea(Uint8Array.from([...image, ...image]), { width: 5, height: 2 }, { width: 2, height: 1 })
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
    assert.ok((await shrinkByArea(flat, { width, height }, { width: size + 3, height: size })).every((value) => value === 201))
    const shrunk = await shrinkByArea(data, { width, height }, { width: size + 3, height: size })
    assert.ok(Math.abs(mean(shrunk) - mean(data)) < 0.5)
  }
})

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
