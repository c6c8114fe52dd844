import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import fc from 'fast-check'
import { assignBuckets, bucketCounts, hashContents, hashImages, type TrainingImage } from '../../../lib/train/training-images.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const bucket = { width: 64, height: 64, resized: { width: 64, height: 64 } }
const image = (i: number): TrainingImage => ({
  ...{ path: `/a/${i}.png`, caption: `tag ${i}, cat`, repeats: 2, width: 500 + (i % 171), height: 400, folder: '2_x', bucket },
})

test('images are counted by bucket, the most first', () => {
  const at = (width: number, height: number) => ({ bucket: { ...bucket, width, height } })
  assert.deepEqual(bucketCounts([at(64, 128), at(64, 64), at(64, 64)]), [
    { width: 64, height: 64, images: 2 },
    { width: 64, height: 128, images: 1 },
  ])
})

/** The hash as it is defined, and in the states there are: of the JSON of all images at once. */
function defined(images: TrainingImage[]): string {
  const described = images.map(({ path, folder, width, height, repeats, caption }) => [
    ...[images.every((other) => other.folder === folder) ? '' : folder, basename(path)],
    ...[width, height, repeats, caption],
  ])
  return createHash('sha256').update(JSON.stringify(described)).digest('hex')
}

test('the hash of images is that of their JSON, in pieces', async () => {
  assert.equal(await hashImages([image(1)]), 'e4393ff16542fc485a5f3dd0d406e33536e420c361afabc3384ca49286a46eb9')
  const images = fc.array(
    fc.record({
      path: fc.string({ minLength: 1 }).map((name) => `/${name}`),
      caption: fc.string({ unit: 'grapheme' }),
      folder: fc.constantFrom('a', 'b'),
    }),
    { maxLength: 5 },
  )
  await fc.assert(
    fc.asyncProperty(images, async (changes) => {
      const changed = changes.map((change, i) => ({ ...image(i), ...change }))
      assert.equal(await hashImages(changed), defined(changed))
    }),
  )
})

test('hashing and bucketing 50,000 images block nothing, and hashing hears a signal', async () => {
  const images = Array.from({ length: 50_000 }, (_, i) => image(i))
  const settings = { resolution: 512, buckets: true, bucketMin: 256, bucketMax: 1024, bucketStep: 64, bucketNoUpscale: false }
  let [turns, done] = [0, false]
  const counting = (async () => {
    for (; !done; turns++) await setTimeout(1)
  })()
  const began = performance.now()
  await hashImages(images)
  await assignBuckets(images, settings)
  const seconds = (performance.now() - began) / 1000
  done = true
  await counting
  // What compares each image with all others takes minutes.
  assert.ok(seconds < 60, `${seconds} s`)
  assert.ok(turns >= 3, `${turns} turns in ${seconds} s`)
  await assert.rejects(hashImages(images, AbortSignal.timeout(5)), { name: 'TimeoutError' })
})

test('the contents of images are those of their files, wherever these lie; each file is read once', async (t) => {
  const [one, other] = [await temporaryFolder(t), await temporaryFolder(t)]
  const write = async (folder: string, texts: string[]) => {
    for (const [i, text] of texts.entries()) await writeFile(join(folder, `${i}.png`), text)
    return texts.map((_, i) => ({ path: join(folder, `${i}.png`) }))
  }
  const images = await write(one, ['a', 'b'])
  const known = new Map<string, string>()
  const hash = await hashContents(images, known)
  assert.equal(await hashContents(await write(other, ['a', 'b']), new Map()), hash)
  assert.notEqual(await hashContents(await write(other, ['a', 'c']), new Map()), hash)
  assert.notEqual(await hashContents(images.toReversed(), known), hash)
  await rm(images[1]!.path)
  assert.equal(await hashContents(images, known), hash)
  // It is skipped when it is decoded.
  assert.notEqual(await hashContents(images, new Map()), hash)
  await assert.rejects(hashContents(images, new Map(), AbortSignal.abort(new Error('enough'))), /enough/)
})
