import assert from 'node:assert/strict'
import { test } from 'node:test'
import sharp from 'sharp'
import { type BenchEvent, bench } from '../../../lib/bench/bench.js'
import { benchSvg } from '../../../lib/bench/picture.js'
import { type BenchRow, isMeasured, type MeasuredRow, pareto, settingsOf } from '../../../lib/bench/rows.js'
import { benchCsv, describeBench } from '../../../lib/cli/bench.js'
import { resolveBenchOptions } from '../../../lib/options/resolve.js'
import { tiny } from '../../fixtures/lora.js'

const given = { model: tiny, device: 'cpu' as const, resolution: 64, batchSize: 1, gradientCheckpointing: 'off' as const, steps: 2 }

test('the grid is every combination once; quick is smaller, where nothing else was given', () => {
  const settings = settingsOf(resolveBenchOptions({ ...given, rank: [4, 4, 8], batchSize: [1, 2], gradientCheckpointing: ['off', 'on'] }))
  assert.equal(settings.length, 8)
  assert.deepEqual(settings[1], { rank: 8, targets: 'default', resolution: 64, batchSize: 1, gradientCheckpointing: false })
  const quick = resolveBenchOptions({ model: tiny, quick: true, rank: 7 })
  assert.deepEqual([quick.rank, quick.resolution, quick.batchSize, quick.steps], [[7], [256], [1], 2])
})

test('two rows: memory, time and size of a training, and of one of a larger rank', async () => {
  const told: string[] = []
  const rows = await bench({ ...given, rank: [2, 64] }, { onEvent: ({ type }) => void told.push(type) })
  assert.deepEqual(told, ['progress', 'row', 'progress', 'row'])
  const [small, large] = rows.filter(isMeasured)
  assert.ok(small && large)
  for (const row of [small, large]) {
    assert.ok(row.processBytes > row.plannedBytes && row.plannedProcessBytes > row.plannedBytes, 'a process holds what is planned')
    assert.ok(row.secondsPerStep > 0 && Math.abs(row.imagesPerSecond * row.secondsPerStep - 1) < 1e-9)
    assert.ok(row.flops > 1e6 && row.ofPeak > 0 && row.deviceBytes === undefined)
  }
  assert.ok(large.plannedBytes > small.plannedBytes && large.flops > small.flops && large.loraBytes > 8 * small.loraBytes)
})

test('what does not fit, and what fails, is a row that says so', async () => {
  const [row] = await bench({ ...given, resolution: 4096, batchSize: 1024, rank: 2 })
  assert.ok(row?.outcome === 'too large' && row.plannedBytes > 2 ** 40, JSON.stringify(row))
  const [failed] = await bench({ ...given, rank: 4096 })
  assert.ok(failed?.outcome === 'failed' && /^RANK_TOO_LARGE: Expected /.test(failed.message), JSON.stringify(failed))
  const text = describeBench([row, failed])
  assert.match(text, /too large/)
  assert.match(text, /rank 4096, 64 px, batch 1 failed: RANK_TOO_LARGE/)
  assert.equal(benchCsv([row, failed]).trimEnd().split('\r\n').length, 3)
})

test('a bench that is stopped has told the rows before', async () => {
  const controller = new AbortController()
  const rows: BenchRow[] = []
  const onEvent = (event: BenchEvent) => {
    if (event.type !== 'row') return
    rows.push(event.row)
    setTimeout(() => controller.abort(), 50)
  }
  await assert.rejects(bench({ ...given, rank: [2, 3, 4, 5] }, { signal: controller.signal, onEvent }), { name: 'AbortError' })
  assert.equal(rows[0]?.outcome, 'measured')
  assert.ok(rows.length < 4)
})

const row = (rank: number, mebibytes: number, seconds: number): MeasuredRow => ({
  ...{ outcome: 'measured', rank, targets: 'default', resolution: 512, batchSize: 1, gradientCheckpointing: false },
  ...{ plannedBytes: 1, plannedProcessBytes: 1, processBytes: mebibytes * 2 ** 20, deviceBytes: undefined },
  ...{ secondsPerStep: seconds, imagesPerSecond: 1 / seconds, flops: 1, ofPeak: 0.5, loraBytes: 1 },
})

test('no other row beats those of the line, and the picture names its axes and ranks', async () => {
  const rows = [row(4, 100, 2), row(8, 120, 2), row(16, 150, 1), row(32, 90, 3)]
  assert.deepEqual(
    pareto(rows).map(({ rank }) => rank),
    [32, 4, 16],
  )
  const svg = await benchSvg([...rows, { ...row(64, 1, 1), outcome: 'failed', message: 'x' }])
  assert.equal((await sharp(Buffer.from(svg)).metadata()).format, 'svg')
  for (const text of ['most memory (MiB)', 'time for an image of a step (s)', 'rank 32', '1 more do not fit']) {
    assert.ok(svg.includes(text), text)
  }
})
