import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { captionOf, conceptOf, matchCaptions } from '../../../lib/data/captions.js'

test('a caption is the first line of its file, trimmed; text below it is noticed', () => {
  const cases: [string, string, boolean][] = [
    ['a cat', 'a cat', false],
    ['  a cat \r\nsecond line', 'a cat', true],
    ['\uFEFFa cat\n', 'a cat', false],
    ['a cat\rsecond', 'a cat', true],
    ['a cat\n\n \n', 'a cat', false],
    ['', '', false],
    ['\na cat', '', true],
    ['一只猫, 🐈\n', '一只猫, 🐈', false],
  ]
  for (const [text, caption, cut] of cases) assert.deepEqual(captionOf(text), { text: caption, cut })
})

test('a caption file is found whatever its case and Unicode form, an exact name before others', async () => {
  const match = async (images: string[], files: string[], extensions = ['.txt', '.caption']) => {
    const { captions, left } = await matchCaptions(images, files, extensions)
    return [Object.fromEntries(captions), left]
  }
  assert.deepEqual(await match(['a.png', 'B.JPG'], ['A.TXT', 'b.Caption']), [{ 'a.png': 'A.TXT', 'B.JPG': 'b.Caption' }, []])
  const [nfc, nfd] = ['é', 'é'.normalize('NFD')]
  assert.notEqual(nfc, nfd)
  assert.deepEqual(await match([`${nfd}.png`], [`${nfc}.txt`]), [{ [`${nfd}.png`]: `${nfc}.txt` }, []])
  assert.deepEqual(await match(['a.png'], ['A.txt', 'a.caption', 'a.txt']), [{ 'a.png': 'a.txt' }, ['A.txt']])
  assert.deepEqual(await match(['a.png', 'A.png'], ['A.txt', 'a.txt']), [{ 'a.png': 'a.txt', 'A.png': 'A.txt' }, []])
  assert.deepEqual(await match(['a.png', 'a.jpg'], ['a.txt']), [{ 'a.png': 'a.txt', 'a.jpg': 'a.txt' }, []])
})

test('50,000 captions are matched in pieces, and a signal is heard', async () => {
  const names = (extension: string) => Array.from({ length: 50_000 }, (_, i) => `Image ${i}${extension}`)
  const [images, files] = [names('.PNG'), names('.txt').map((name) => name.toLowerCase())]
  let [turns, done] = [0, false]
  const counting = (async () => {
    for (; !done; turns++) await setTimeout(1)
  })()
  const { captions, left } = await matchCaptions(images, files, ['.txt'])
  done = true
  await counting
  assert.deepEqual([captions.size, captions.get('Image 7.PNG'), left], [50_000, 'image 7.txt', []])
  assert.ok(turns >= 3, `${turns} turns`)
  await assert.rejects(matchCaptions(images, files, ['.txt'], AbortSignal.timeout(1)), { name: 'TimeoutError' })
})

test('captions are left over where no image uses them, but not beside one that comes first', async () => {
  const left = async (images: string[], files: string[], extensions?: string[]) =>
    (await matchCaptions(images, files, extensions ?? ['.txt', '.caption'])).left
  assert.deepEqual(await left(['a.png'], ['a.txt', 'a.caption']), [])
  assert.deepEqual(await left(['a.png'], ['a.png.txt', 'b.txt']), ['a.png.txt', 'b.txt'])
  assert.deepEqual(await left(['a.png', 'b.png'], ['a.caption', 'a.txt', 'b.txt'], ['.caption']), ['b.txt'])
  assert.deepEqual(await left(['a.png', 'b.png'], ['a.tags.json', 'b.txt'], ['.tags.json']), ['b.txt'])
})

test('a folder named N_class gives repeats and class tokens', () => {
  assert.deepEqual(conceptOf('10_3d style'), { repeats: 10, classTokens: '3d style' })
  assert.deepEqual(conceptOf('3_sks_dog'), { repeats: 3, classTokens: 'sks_dog' })
  assert.deepEqual(conceptOf('007_x'), { repeats: 7, classTokens: 'x' })
  assert.deepEqual(conceptOf('5'), { repeats: 5, classTokens: '' })
})

test('other folders are no concepts', () => {
  for (const name of ['cats', '0_cats', '-1_cats', '1.5_cats', '10cats', '_10', '', '1e3_cats', '0x10_cats'])
    assert.equal(conceptOf(name), undefined, name)
})
