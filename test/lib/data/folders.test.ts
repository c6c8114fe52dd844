import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { linkSync } from 'node:fs'
import { mkdir, readFile, symlink, truncate, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { brief, scan, write, writeImage } from '../../fixtures/dataset.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('captions that no image uses are counted and five of them named, and refused when strict', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'a.png.txt': 'no' })
  for (let i = 0; i < 6; i++) await write(images, { [`left${i}.txt`]: 'no' })
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [['a.png', '', 1]])
  const [{ code, message, path } = assert.fail(), ...others] = warnings
  assert.deepEqual([code, path, others], ['CAPTION_UNUSED', images, []])
  assert.match(
    message,
    / 7 captions without one: a\.png\.txt, left0\.txt, left1\.txt, left2\.txt, left3\.txt, and 2 more; they are skipped$/,
  )
  await assert.rejects(scan({ images, strict: true }), { code: 'DATASET_NOT_CLEAN', message: /received 7 bad files:/ })
  const asked = await scan({ images, captionExtension: '.caption' })
  assert.match(asked.warnings[0]!.message, /7 captions/)
})

test('folders with images are named with counts, and refused when strict; those without and those of other tools are not', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'more/b.png': 'image', 'more/deep/c.HEIC': 'x', 'more/deep/d.jpg': 'image', 'logs/log.txt': '' })
  await write(images, { '@eaDir/a.jpg': 'image', '.cache/a.jpg': 'image', '__MACOSX/a.png': 'x' })
  await symlink('.', join(images, 'circle'))
  await symlink('nothing', join(images, 'broken'))
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [['a.png', '', 1]])
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['NOT_AN_IMAGE', 'FOLDER_SKIPPED'],
  )
  assert.match(warnings[1]!.message, / 2 folders: circle \(4 images\), more \(3 images\); they are skipped$/)
  await assert.rejects(scan({ images, strict: true }), { code: 'DATASET_NOT_CLEAN', message: /more \(3 images\)/ })
  await write(images, { '2_x/a.png': 'image', '2_x/sub/b.png': 'image' })
  const concepts = (await scan({ images })).warnings.map(({ code, path }) => [code, basename(path as string)])
  assert.deepEqual(concepts, [
    ['FOLDER_SKIPPED', basename(images)],
    ['IMAGE_OUTSIDE', 'a.png'],
    ['NOT_AN_IMAGE', 'broken'],
    ['FOLDER_SKIPPED', 'sub'],
  ])
})

test('folders that are not searched are not counted to their end, however many files they hold', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'big/0.png': 'x', 'other/a.png': 'x', 'third/a.txt': 'x' })
  for (let i = 1; i < 20_000; i++) linkSync(join(images, 'big/0.png'), join(images, `big/${i}.png`))
  const messages = async () => (await scan({ images })).warnings.map(({ message }) => message.replace(/^.* but received /, ''))
  const unseen = 'folders of more than 20000 files: 2 folders were not looked at for images'
  assert.deepEqual(await messages(), ['1 folder: big (20000 images); it is skipped', unseen])
  linkSync(join(images, 'big/0.png'), join(images, 'big/more.png'))
  assert.deepEqual(await messages(), ['1 folder: big (20000 images or more); it is skipped', unseen])
})

test('a strict scan does not refuse folders that were not looked at, but tells', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'big/0.txt': 'x', 'other/a.txt': 'x' })
  for (let i = 1; i <= 20_000; i++) linkSync(join(images, 'big/0.txt'), join(images, `big/${i}.txt`))
  const { warnings } = await scan({ images, strict: true })
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['FOLDER_SKIPPED'],
  )
  assert.match(warnings[0]!.message, /2 folders were not looked at/)
})

test('captions and other files beside N_class folders are told, and refused when strict', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { '2_x/a.png': 'image', 'stray.txt': 'x', 'notes.md': 'x', 'meta.json': '{}', '.hidden': 'x', 'b.bmp': 'BM' })
  const { warnings } = await scan({ images })
  assert.deepEqual(
    warnings.map(({ code, path }) => [code, basename(path as string)]),
    [
      ['IMAGE_OUTSIDE', 'b.bmp'],
      ['CAPTION_UNUSED', 'stray.txt'],
      ['NOT_AN_IMAGE', 'notes.md'],
    ],
  )
  await assert.rejects(scan({ images, strict: true }), { code: 'DATASET_NOT_CLEAN', message: /3 bad files/ })
})

test('the N_class folder given itself trains once an epoch, and the name that is not used is told', async (t) => {
  const images = join(await temporaryFolder(t), '10_3d style')
  await write(images, { 'a.png': 'image' })
  for (const given of [images, `${images}/`]) {
    const { items, warnings } = await scan({ images: given, strict: true })
    assert.deepEqual(brief(items), [['a.png', '', 1]])
    assert.deepEqual(
      warnings.map(({ code }) => code),
      ['REPEATS_UNUSED'],
    )
    assert.match(
      warnings[0]!.message,
      /10_3d style is not used: .* for 10 repeats and the class tokens "3d style" give the folder that holds it$/,
    )
  }
})

test('a folder named with a date, given itself, asks for no repeats', async (t) => {
  const images = join(await temporaryFolder(t), '20240115_holiday')
  await write(images, { 'a.png': 'image' })
  assert.deepEqual((await scan({ images })).warnings, [])
})

test('an epoch that no run could end is refused, with the folder and the reason', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { '20240115_holiday/a.png': 'image', '3_x/b.png': 'image' })
  await assert.rejects(scan({ images }), {
    code: 'EPOCH_TOO_LARGE',
    message: /at most 10000000 samples .* received 20240118: the folder 20240115_holiday has 1 image × 20240115 repeats, .* date .*rename/,
  })
  await write(images, { '20240115123045123_x/a.png': 'image' })
  await assert.rejects(scan({ images }), { code: 'EPOCH_TOO_LARGE', message: /the folder 20240115123045123_x has 1 image × .* date / })
})

test('images of formats that are not supported are counted, not called damaged', async (t) => {
  const images = await temporaryFolder(t)
  const bmp = Buffer.concat([Buffer.from('BM'), Buffer.alloc(60)])
  await write(images, { 'a.png': 'image', 'a.bmp': 'BM', 'b.BMP': 'BM', 'c.heic': 'x', 'd.jfif': 'image', 'a.txt': 'a' })
  await writeFile(join(images, 'renamed.jpg'), bmp)
  const { items, warnings } = await scan({ images })
  assert.deepEqual(
    items.map(({ path }) => basename(path)),
    ['a.png', 'd.jfif'],
  )
  const briefly = warnings.map(({ code, message }) => [code, message.replace(/^.* but received /, '')])
  assert.deepEqual(briefly, [
    ['IMAGE_UNSUPPORTED', '2 BMP images, a format that is not supported, to be converted: a.bmp, b.BMP; they are skipped'],
    ['IMAGE_UNSUPPORTED', '1 HEIC image, a format that is not supported, to be converted: c.heic; it is skipped'],
    ['IMAGE_UNSUPPORTED', 'BMP, which is not supported; convert it; it is skipped'],
  ])
})

test('what is no regular file, or has no end, is skipped by name and hangs nothing', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'b.png': 'image', 'c.png': 'image', 'd.png': 'image' })
  execFileSync('mkfifo', [join(images, 'pipe.png'), join(images, 'a.txt')])
  await symlink('/dev/zero', join(images, 'device.png'))
  await symlink('/dev/zero', join(images, 'b.txt'))
  await symlink('loop.png', join(images, 'loop.png'))
  await writeFile(join(images, 'endless.png'), '')
  await truncate(join(images, 'endless.png'), 2 ** 40)
  await writeFile(join(images, 'endless.jpg'), '')
  await writeFile(join(images, 'c.txt'), '')
  await truncate(join(images, 'c.txt'), 2 ** 40)
  await mkdir(join(images, 'folder.png'))
  const { items, warnings } = await scan({ images })
  assert.deepEqual(brief(items), [['d.png', '', 1]])
  const found = Object.fromEntries(warnings.map(({ path, code, message }) => [basename(path as string), `${code} ${message}`]))
  assert.match(found['pipe.png']!, /IMAGE_UNREADABLE .*received a pipe/)
  assert.match(found['device.png']!, /IMAGE_UNREADABLE .*received a device/)
  assert.match(found['loop.png']!, /IMAGE_UNREADABLE .*links that lead in a circle/)
  assert.match(found['endless.png']!, /IMAGE_UNREADABLE .*at most 1024 MiB/)
  assert.match(found['a.png']!, /CAPTION_UNREADABLE .*a pipe/)
  assert.match(found['b.png']!, /CAPTION_UNREADABLE .*a device/)
  assert.match(found['c.png']!, /CAPTION_UNREADABLE .*at most 1 MiB/)
})

test('a strict scan counts one bad file as one', async (t) => {
  const images = await temporaryFolder(t)
  await write(images, { 'a.png': 'image', 'text.jpg': 'no image' })
  await assert.rejects(scan({ images, strict: true }), { code: 'DATASET_NOT_CLEAN', message: /received 1 bad file:\n.*text\.jpg/ })
})

test('a strict scan that refuses lists damage behind the headers too', async (t) => {
  const images = await temporaryFolder(t)
  await writeImage(join(images, 'cut.png'), 100, 80)
  await writeFile(join(images, 'cut.png'), (await readFile(join(images, 'cut.png'))).subarray(0, 150))
  await write(images, { 'a.png': 'image', 'text.jpg': 'no image' })
  await assert.rejects(scan({ images, strict: true }), {
    code: 'DATASET_NOT_CLEAN',
    message: /received 2 bad files:\n.*text\.jpg.*\n.*cut\.png/,
  })
})

test('a folder without a usable image is refused, with counts and reasons', async (t) => {
  const images = await temporaryFolder(t)
  await assert.rejects(scan({ images }), { name: 'LorafuseError', code: 'NO_IMAGES', message: /but received nothing$/ })
  for (let i = 0; i < 7; i++) await write(images, { [`text${i}.png`]: 'no image' })
  await write(images, { 'a.heic': '', 'b.txt': '', 'sub/a.png': 'image', 'x.pdf': '' })
  const error = await scan({ images }).catch(({ code, message }) => ({ code, message }))
  assert.equal('code' in error && error.code, 'NO_IMAGES')
  const [head, ...reasons] = ('message' in error ? error.message : '').split('\n')
  const counts = '7 unreadable images, 1 unsupported image, 1 caption without an image, 1 other file, 1 folder not searched'
  assert.ok(head.endsWith(`but received ${counts}:`), head)
  assert.deepEqual([reasons.length, reasons.at(-1)], [6, '  and 6 more'])
  await write(images, { '3_x/notes.txt': 'nothing' })
  await assert.rejects(scan({ images }), { code: 'NO_IMAGES' })
})
