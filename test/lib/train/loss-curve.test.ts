import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { type CurvePoint, lossCurvePng, lossCurveSvg } from '../../../lib/train/loss-curve.js'

const falling = (count: number): CurvePoint[] =>
  Array.from({ length: count }, (_, i) => ({ step: i + 1, loss: 1.1 - i / count + (i % 2) / 100 }))

async function pixels(points: CurvePoint[], size = { width: 400, height: 200 }) {
  const { data, info } = await sharp(await lossCurvePng(points, size))
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true })
  return { info, at: (x: number, y: number) => [...data.subarray((y * info.width + x) * 3, (y * info.width + x) * 3 + 3)] }
}

test('the curve is a picture of the size asked for', async () => {
  const { info, at } = await pixels(falling(100))
  assert.deepEqual([info.format, info.width, info.height], ['raw', 400, 200])
  assert.deepEqual(at(399, 0), [255, 255, 255])
})

test('a falling loss is drawn from the upper left to the lower right', async () => {
  const { at } = await pixels(falling(100))
  const isBlue = ([red, green, blue]: number[]) => (blue as number) > (red as number) + 60 && (green as number) < 230
  const heightAt = (x: number) => Array.from({ length: 200 }, (_, y) => y).find((y) => isBlue(at(x, y)))
  assert.ok((heightAt(125) as number) < 60)
  assert.ok((heightAt(355) as number) > 100)
})

test('both axes are named, and their numbers are short', async () => {
  for (const points of [falling(3), falling(123_456), falling(50).map(({ step }) => ({ step, loss: 1e-7 * step }))]) {
    const svg = await lossCurveSvg(points)
    const texts = Array.from(svg.matchAll(/<text[^>]*>([^<]*)</g), ([, text]) => text!)
    assert.ok(texts.includes('step') && texts.includes('loss'), texts.join(' '))
    assert.ok(
      texts.every((text) => text.length < 10),
      texts.join(' '),
    )
    assert.ok(!svg.includes('NaN'))
  }
})

test('no point, one point and losses that are not finite make a picture too', async () => {
  await pixels([])
  await pixels([{ step: 5, loss: 0.1 }])
  await pixels([
    { step: 1, loss: 0 },
    { step: 2, loss: 0 },
  ])
  const svg = await lossCurveSvg([
    { step: 1, loss: 1 },
    { step: 2, loss: Number.NaN },
    { step: 3, loss: Number.POSITIVE_INFINITY },
  ])
  assert.ok(!/NaN|Infinity/.test(svg))
})

test('a long run is thinned, not cut', async () => {
  const svg = await lossCurveSvg(falling(100_000))
  assert.ok(svg.length < 100_000, `${svg.length} bytes`)
})
