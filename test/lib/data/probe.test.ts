import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { crc32 } from 'node:zlib'
import sharp from 'sharp'
import { probeImage } from '../../../lib/data/images.js'
import { bucket, gradient, load, tiff } from '../../fixtures/pixels.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('images of formats that sharp does not read are told from damaged ones', async (t) => {
  const folder = await temporaryFolder(t)
  const box = (brands: string) => Buffer.concat([Buffer.from([0, 0, 0, 24]), Buffer.from(`ftyp${brands}`), Buffer.alloc(200)])
  const files: [string, Uint8Array, string][] = [
    ['bitmap.jpg', Buffer.concat([Buffer.from('BM'), Buffer.alloc(70)]), 'BMP'],
    ['phone.jpg', box('heic\0\0\0\0mif1heic'), 'HEIC'],
    ['phone.png', box('mif1\0\0\0\0mif1heic'), 'HEIC'],
    ['new.png', Buffer.concat([Buffer.from([0xff, 0x0a]), Buffer.alloc(70)]), 'JPEG XL'],
    ['drawing.png', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), 'SVG'],
  ]
  for (const [name, data, format] of files) {
    const path = join(folder, name)
    await writeFile(path, data)
    const message = `Expected a PNG, JPEG, WebP, AVIF, GIF or TIFF image for ${path} but received ${format}, which is not supported; convert it`
    await assert.rejects(probeImage(path), { code: 'IMAGE_UNSUPPORTED', message })
  }
})

test('a TIFF that the header says can be read, but that does not convert, is found by the probe', async (t) => {
  const path = join(await temporaryFolder(t), 'a.tif')
  for (const [samples, photometric] of [
    [1, 2],
    [2, 2],
    [3, 5],
  ] as const) {
    await writeFile(path, tiff(samples, photometric))
    await assert.rejects(probeImage(path), { code: 'IMAGE_UNSUPPORTED', message: /do not convert to sRGB/ })
  }
})

test('an image of more pixels than libvips takes is found by the probe and named', async (t) => {
  const path = join(await temporaryFolder(t), 'a.png')
  await gradient(9, 9).png().toFile(path)
  const png = await readFile(path)
  png.writeUInt32BE(20_000, 16)
  png.writeUInt32BE(20_000, 20)
  png.writeUInt32BE(crc32(png.subarray(12, 29)), 29)
  await writeFile(path, png)
  await assert.rejects(probeImage(path), { code: 'IMAGE_UNSUPPORTED', message: /more than 268 megapixels/ })
})

test('the header of a large file is enough', async (t) => {
  const path = join(await temporaryFolder(t), 'a')
  const noise = sharp(randomBytes(600 * 500 * 3), { raw: { width: 600, height: 500, channels: 3 } })
  for (const image of [
    noise.png(),
    noise.jpeg({ quality: 100 }),
    noise.webp({ lossless: true }),
    noise.tiff({ compression: 'lzw' }),
    noise.avif({ quality: 100, effort: 0 }),
  ]) {
    await image.withMetadata({ orientation: 8 }).toFile(path)
    assert.ok((await stat(path)).size > 2 ** 18)
    assert.deepEqual(await probeImage(path), { width: 500, height: 600 })
  }
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
    ['cut.png', whole['a.png'].subarray(0, 20)],
  ]
  for (const [name, data] of headless) {
    const path = join(folder, name)
    await writeFile(path, data)
    await assert.rejects(probeImage(path), expected(name), name)
  }
  await assert.rejects(probeImage(join(folder, 'none.png')), { code: 'IMAGE_UNREADABLE', message: /nothing of that name/ })
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
