import assert from 'node:assert/strict'
import { copyFile, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { loadImage } from '../../../lib/data/images.js'
import type { Colour } from '../../../lib/options/values.js'
import { brief, scan, write, writeImage } from '../../fixtures/dataset.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

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
  await write(images, { '.hidden.png': 'junk', 'a_sd.npz': 'cache', 'meta.json': '{}', 'Thumbs.db': 'db', 'desktop.ini': 'ini' })
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

test('an extension of images is refused for captions', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image' })
  for (const captionExtension of ['png', '.PNG', '.bmp']) {
    const message = `Expected an extension of text files for captions but received .${captionExtension.replace('.', '')}, one of images`
    await assert.rejects(scan({ images, captionExtension }), { code: 'OPTION_INVALID', message })
  }
})

test('one image without a caption is enough', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image' })
  assert.deepEqual(brief((await scan({ images, strict: true })).items), [['a.png', '', 1]])
})

test('captions match whatever their case and Unicode form; further lines are noted', async (t) => {
  const images = await temporaryFolder(t)
  const composed = 'é'
  await write(images, {
    'A.png': 'image',
    'a.TXT': 'an a',
    [`${composed.normalize('NFD')}.jpg`]: 'image',
    [`${composed}.txt`]: 'an e\nmore',
  })
  const { items, warnings } = await scan({ images, strict: true })
  assert.deepEqual(
    items.map(({ caption, captionCut }) => [caption, captionCut]),
    [
      ['an a', undefined],
      ['an e', true],
    ],
  )
  assert.deepEqual(warnings, [])
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
      ['NOT_AN_IMAGE', 'notes.md'],
      ['IMAGE_UNREADABLE', 'empty.png'],
      ['IMAGE_UNREADABLE', 'text.jpg'],
      ['IMAGE_UNREADABLE', 'truncated.jpg'],
      ['CAPTION_UNREADABLE', 'latin.png'],
    ],
  )
  for (const { message, path } of warnings)
    assert.ok(message.includes(basename(path as string).replace(/latin\.png$/, 'latin.txt')) && message.endsWith('; it is skipped'))
  await assert.rejects(scan({ images, strict: true }), (error: Error & { code: string }) => {
    assert.equal(error.code, 'DATASET_NOT_CLEAN')
    for (const name of ['empty.png', 'latin.txt', 'notes.md', 'text.jpg', 'truncated.jpg']) assert.ok(error.message.includes(name))
    return true
  })
})

test('more than five bad files of one kind in a folder have one warning, with all their paths', async (t) => {
  const images = await temporaryFolder(t)
  const bad = Array.from({ length: 30 }, (_, i) => `bad${String(i).padStart(2, '0')}.png`)
  await write(images, { '1_a/good.png': 'image', '2_b/empty.png': '', ...Object.fromEntries(bad.map((name) => [`1_a/${name}`, ''])) })
  const { warnings } = await scan({ images })
  const [all, one, ...others] = warnings
  const folder = join(images, '1_a')
  assert.deepEqual(others, [])
  assert.deepEqual([all?.code, all?.path, all?.paths], ['IMAGE_UNREADABLE', folder, bad.map((name) => join(folder, name))])
  const first = bad.slice(0, 5).map((name) => `${name} (an empty file)`)
  const received = `30 unreadable images: ${first.join(', ')}, and 25 more; they are skipped`
  assert.equal(all?.message, `Expected files that can be used in ${folder} but received ${received}`)
  assert.deepEqual([one?.code, one?.path, one?.paths], ['IMAGE_UNREADABLE', join(images, '2_b/empty.png'), undefined])
})

test('an image that is damaged behind its header is listed: it is found when it is loaded', async (t) => {
  const images = await temporaryFolder(t)
  await writeImage(join(images, 'cut.png'), 100, 80)
  const path = join(images, 'cut.png')
  await writeFile(path, (await readFile(path)).subarray(0, 150))
  const { items, warnings } = await scan({ images, strict: true })
  assert.deepEqual([items[0]?.width, items[0]?.height, warnings], [100, 80, []])
  const size = { width: 64, height: 64 }
  const options = { bucket: { ...size, resized: size }, background: [0, 0, 0] as Colour, mirrored: false }
  await assert.rejects(loadImage(path, options), { code: 'IMAGE_UNREADABLE', message: /cut\.png/ })
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

/** A folder of `count` images, each with a caption. */
async function writeMany(t: TestContext, count: number): Promise<string> {
  const images = await temporaryFolder(t)
  await write(images, { '0.png': 'image' })
  const png = await readFile(join(images, '0.png'))
  for (let i = 0; i < count; i++) {
    await writeFile(join(images, `${i}.png`), png)
    await writeFile(join(images, `${i}.txt`), `number ${i}`)
  }
  return images
}

test('many images come in the order of their names, and a signal is heard among them', async (t) => {
  const images = await writeMany(t, 300)
  const { items } = await scan({ images })
  const names = Array.from({ length: 300 }, (_, i) => `${i}.png`).sort()
  assert.deepEqual(
    items.map(({ path }) => basename(path)),
    names,
  )
  assert.ok(items.every(({ path, caption }) => caption === `number ${basename(path, '.png')}`))
  await assert.rejects(scan({ images }, AbortSignal.timeout(5)), { name: 'TimeoutError' })
})

test('scanning stops when aborted', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image' })
  await copyFile(join(images, 'a.png'), join(images, 'b.png'))
  assert.equal((await readdir(images)).length, 2)
  await assert.rejects(scan({ images }, AbortSignal.abort()), { name: 'AbortError' })
})
