import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp from 'sharp'
import { axis, chart, heading, png, writePicture } from '../../../lib/pictures/chart.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const option = {
  title: heading('Memory'),
  xAxis: axis('op', 40),
  yAxis: axis('memory (MiB)', 70),
  series: [
    {
      type: 'line' as const,
      data: [
        [0, 1],
        [1, 3],
      ],
    },
  ],
}

test('a chart is SVG that names its axes, of 1200 × 675 pixels', async () => {
  const svg = await chart(option)
  const { format, width, height } = await sharp(Buffer.from(svg)).metadata()
  assert.deepEqual([format, width, height], ['svg', 1200, 675])
  for (const text of ['Memory', 'op', 'memory (MiB)']) assert.ok(svg.includes(`>${text}</text>`), text)
})

test('a PNG has the size of its SVG, and its texts are drawn', async () => {
  const size = { width: 400, height: 200 }
  const drawn = await png(await chart(option, size))
  const metadata = await sharp(drawn).metadata()
  assert.deepEqual([metadata.format, metadata.width, metadata.height], ['png', 400, 200])
  const dark = async (svg: string) => {
    const data = await sharp(await png(svg))
      .greyscale()
      .raw()
      .toBuffer()
    return data.filter((value) => value < 128).length
  }
  const svg = await chart(option, size)
  assert.ok((await dark(svg)) > (await dark(svg.replace(/<text.*?<\/text>/gs, ''))) + 100)
})

test('a picture is written as its name says, and nothing else is left', async (t) => {
  const folder = await temporaryFolder(t)
  const svg = await chart(option)
  await writePicture(join(folder, 'a.svg'), svg)
  await writePicture(join(folder, 'a.PNG'), svg)
  assert.equal(await readFile(join(folder, 'a.svg'), 'utf8'), svg)
  assert.equal((await sharp(join(folder, 'a.PNG')).metadata()).format, 'png')
  assert.deepEqual((await readdir(folder)).sort(), ['a.PNG', 'a.svg'])
})
