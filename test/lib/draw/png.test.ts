import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { encodePng, type Picture, readTexts, tile, toPicture, withText } from '../../../lib/draw/png.js'

const picture = (width: number, height: number, value: number): Picture => ({
  width,
  height,
  data: new Uint8Array(width * height * 3).fill(value),
})

test('pixels become bytes, clamped and rounded', () => {
  const { data } = toPicture(Float32Array.of(-2, -1, 0, 0.5, 1, 7), 2, 1)
  assert.deepEqual([...data], [0, 0, 128, 191, 255, 255])
})

test('pictures are tiled in rows with white between them', () => {
  const sheet = tile([[picture(2, 1, 10), picture(2, 1, 20)], [picture(2, 1, 30)]], 2, 1, 1)
  assert.deepEqual([sheet.width, sheet.height], [5, 3])
  const reds = [...sheet.data].filter((_, i) => i % 3 === 0)
  assert.deepEqual(reds, [10, 10, 255, 20, 20, 255, 255, 255, 255, 255, 30, 30, 255, 255, 255])
})

test('parameters come back from the file, which stays a PNG of the same pixels', async () => {
  for (const text of ['a cat\nNegative prompt: dog\nSteps: 30', 'naïve café ÿ', 'ein Apfel 🍎 “rot”, 東京', '']) {
    const png = await encodePng(picture(3, 2, 77), text)
    assert.equal(readTexts(png).get('parameters'), text)
    const { data, info } = await sharp(png, { failOn: 'warning' }).removeAlpha().raw().toBuffer({ resolveWithObject: true })
    assert.deepEqual([info.width, info.height, info.channels], [3, 2, 3])
    assert.deepEqual(data, Buffer.alloc(18, 77))
  }
})

test('the text is tEXt in Latin-1 where that has its characters, else iTXt in UTF-8, after the header', async () => {
  const latin = Buffer.from(await encodePng(picture(1, 1, 0), 'é'))
  assert.equal(latin.toString('latin1', 37, 41), 'tEXt')
  assert.equal(latin.toString('latin1', 41, 53), 'parameters\0é')
  const other = Buffer.from(await encodePng(picture(1, 1, 0), '€'))
  assert.equal(other.toString('latin1', 37, 41), 'iTXt')
  assert.equal(other.toString('utf8', 41, 59), 'parameters\0\0\0\0\0€')
  assert.deepEqual([...readTexts(withText(latin, 'Title', 'x')).keys()], ['Title', 'parameters'])
})

test('damaged and foreign files are refused', async () => {
  const png = await encodePng(picture(1, 1, 0), 'text')
  const damaged = Uint8Array.from(png)
  damaged[45] = 0
  const invalid = { name: 'LorafuseError', code: 'PNG_INVALID' }
  for (const bytes of [damaged, png.subarray(0, 50), png.subarray(0, 40), new Uint8Array(8)]) assert.throws(() => readTexts(bytes), invalid)
})
