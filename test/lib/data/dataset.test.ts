import assert from 'node:assert/strict'
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import sharp from 'sharp'
import { type DatasetItem, type DatasetOptions, scanDataset } from '../../../lib/data/dataset.js'
import { loadImage } from '../../../lib/data/images.js'
import type { Colour } from '../../../lib/options/values.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

async function writeImage(path: string, width = 12, height = 8): Promise<void> {
  await sharp({ create: { width, height, channels: 3, background: 'red' } })
    .png()
    .toFile(path)
}

/** A folder from names: images get pixels, everything else its text. */
async function write(root: string, files: Record<string, string>): Promise<void> {
  for (const [name, text] of Object.entries(files)) {
    const path = join(root, name)
    await mkdir(join(path, '..'), { recursive: true })
    if (text === 'image') await writeImage(path)
    else await writeFile(path, text)
  }
}

/** Scans without `strict` unless told so. */
const scan = (options: Pick<DatasetOptions, 'images'> & Partial<DatasetOptions>, signal?: AbortSignal) =>
  scanDataset({ strict: false, captionExtension: undefined, ...options }, signal)

const brief = (items: DatasetItem[]) => items.map(({ path, caption, repeats }) => [basename(path), caption, repeats])

test('a flat folder gives its images in order with captions from .txt, else .caption', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, {
    'b.png': 'image',
    'a.PNG': 'image',
    'C.jpg': 'image',
    'a.txt': 'an a\nmore',
    'b.caption': ' a b ',
    'C.txt': 'a c',
    'C.caption': 'no',
  })
  await write(images, { '.hidden.png': 'junk', 'a_sd.npz': 'cache', 'meta.json': '{}', 'orphan.txt': 'no image' })
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [
    ['C.jpg', 'a c', 1],
    ['a.PNG', 'an a', 1],
    ['b.png', 'a b', 1],
  ])
  assert.deepEqual(items[0], { path: join(images, 'C.jpg'), caption: 'a c', repeats: 1, width: 12, height: 8, folder: basename(images) })
  assert.deepEqual(warnings, [])
})

test('the caption extension can be chosen', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'a.txt': 'from txt', 'a.tags': 'from tags' })
  for (const captionExtension of ['.tags', 'tags']) {
    assert.deepEqual(brief((await scan({ images, captionExtension })).items), [['a.png', 'from tags', 1]])
  }
})

test('one image without a caption is enough, and is mentioned', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image' })
  const { items, warnings } = await scan({ images, strict: true })
  assert.deepEqual(brief(items), [['a.png', '', 1]])
  assert.deepEqual(
    warnings.map(({ code, path }) => [code, path]),
    [['NO_CAPTION', images]],
  )
})

test('N_class folders give repeats, and class tokens where there is no caption', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, {
    '10_3d style/a.png': 'image',
    '10_3d style/a.txt': 'an a',
    '10_3d style/b.png': 'image',
    '2_sks_dog/c.webp': 'image',
  })
  await write(images, { 'other/d.png': 'image', 'e.png': 'image' })
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [
    ['a.png', 'an a', 10],
    ['b.png', '3d style', 10],
    ['c.webp', 'sks_dog', 2],
  ])
  assert.deepEqual(
    items.map(({ folder }) => folder),
    ['10_3d style', '10_3d style', '2_sks_dog'],
  )
  assert.deepEqual(
    warnings.map(({ code, path }) => [code, basename(path as string)]),
    [
      ['FOLDER_SKIPPED', 'other'],
      ['IMAGE_OUTSIDE', 'e.png'],
    ],
  )
})

test('bad files among good ones are skipped and listed, and refused when strict', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, {
    'good.png': 'image',
    'good.txt': 'good',
    'empty.png': '',
    'text.jpg': 'no image',
    'notes.md': '# notes',
    'latin.png': 'image',
  })
  await writeFile(join(images, 'latin.txt'), Buffer.from([0x61, 0xe9, 0x62]))
  const whole = await sharp({ create: { width: 300, height: 300, channels: 3, background: 'blue' } })
    .jpeg()
    .toBuffer()
  await writeFile(join(images, 'truncated.jpg'), whole.subarray(0, 100))
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [['good.png', 'good', 1]])
  assert.deepEqual(
    warnings.map(({ code, path }) => [code, basename(path as string)]),
    [
      ['IMAGE_UNREADABLE', 'empty.png'],
      ['CAPTION_UNREADABLE', 'latin.png'],
      ['NOT_AN_IMAGE', 'notes.md'],
      ['IMAGE_UNREADABLE', 'text.jpg'],
      ['IMAGE_UNREADABLE', 'truncated.jpg'],
    ],
  )
  for (const { message, path } of warnings)
    assert.ok(message.includes((path as string).replace(/latin\.png$/, 'latin.txt')) && message.endsWith('; it is skipped'))
  await assert.rejects(scan({ images, strict: true }), (error: Error & { code: string }) => {
    assert.equal(error.code, 'DATASET_NOT_CLEAN')
    for (const name of ['empty.png', 'latin.txt', 'notes.md', 'text.jpg', 'truncated.jpg']) assert.ok(error.message.includes(name))
    return true
  })
})

test('an image that is damaged behind its header is listed: it is found when it is loaded', async (t) => {
  const images = await temporaryFolder(t)
  await writeImage(join(images, 'cut.png'), 100, 80)
  const path = join(images, 'cut.png')
  await writeFile(path, (await readFile(path)).subarray(0, 150))
  const { items, warnings } = await scan({ images, strict: true })
  assert.deepEqual([items[0]?.width, items[0]?.height], [100, 80])
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['NO_CAPTION'],
  )
  const size = { width: 64, height: 64 }
  const options = { bucket: { ...size, resized: size }, background: [0, 0, 0] as Colour, mirrored: false }
  await assert.rejects(loadImage(path, options), { code: 'IMAGE_UNREADABLE', message: /cut\.png/ })
})

test('a folder without a usable image is refused, with the reasons', async (t) => {
  const images = await temporaryFolder(t)
  await assert.rejects(scan({ images }), { name: 'LorafuseError', code: 'NO_IMAGES', message: new RegExp(images) })
  await write(images, { 'text.png': 'no image', 'sub/a.png': 'image' })
  await assert.rejects(scan({ images }), { code: 'NO_IMAGES', message: /text\.png/ })
  await write(images, { '3_x/notes.txt': 'nothing' })
  await assert.rejects(scan({ images }), { code: 'NO_IMAGES' })
})

test('what is no folder is refused', async (t) => {
  const folder = await temporaryFolder(t)
  await write(folder, { 'a.png': 'image' })
  await assert.rejects(scan({ images: join(folder, 'none') }), { code: 'IMAGES_NOT_FOUND', message: /none.*does not exist/ })
  await assert.rejects(scan({ images: join(folder, 'a.png') }), { code: 'IMAGES_NOT_FOUND', message: /a file/ })
})

test('the size is that of the upright image', async (t) => {
  const images = await temporaryFolder(t)
  const image = sharp({ create: { width: 12, height: 8, channels: 3, background: 'red' } })
  await image.withMetadata({ orientation: 8 }).jpeg().toFile(join(images, 'a.jpg'))
  const { items } = await scan({ images })
  assert.deepEqual([items[0]?.width, items[0]?.height], [8, 12])
})

test('scanning stops when aborted', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image' })
  await copyFile(join(images, 'a.png'), join(images, 'b.png'))
  assert.equal((await readdir(images)).length, 2)
  await assert.rejects(scan({ images }, AbortSignal.abort()), { name: 'AbortError' })
})
