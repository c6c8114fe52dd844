import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bucketList, downloadLine, downloadStartLine, duration, memory, Progress, stepLine } from '../../../lib/cli/progress.js'

function record(isTTY: boolean, environment: NodeJS.ProcessEnv = {}) {
  let text = ''
  const clock = { now: 0 }
  const output = { write: (piece: string) => (text += piece), isTTY, columns: 20 }
  const take = () => {
    const taken = text
    text = ''
    return taken
  }
  return { progress: new Progress(output, environment, () => clock.now), clock, take }
}

test('buckets are listed with their images, at most six', () => {
  const buckets = Array.from({ length: 8 }, (_, i) => ({ width: 512, height: 512 - 64 * i, images: 20 - i }))
  assert.equal(bucketList(buckets.slice(0, 2)), '512×512: 20, 512×448: 19')
  assert.match(bucketList(buckets), /^512×512: 20, .*, 512×192: 15, and 2 more$/)
})

test('a terminal sees one line that is drawn anew, cut to its width, ten times a second at most', () => {
  const { progress, clock, take } = record(true)
  progress.update('one')
  progress.update('two')
  assert.equal(take(), '\rone\x1b[K')
  clock.now = 100
  progress.update('a line longer than the terminal')
  assert.equal(take(), '\ra line longer than \x1b[K')
  progress.update('last', true)
  progress.end()
  assert.equal(take(), '\rlast\x1b[K\n')
  progress.end()
  assert.equal(take(), '')
})

test('lines that stay go above the progress', () => {
  const { progress, take } = record(true)
  progress.line('first')
  assert.equal(take(), 'first\n')
  progress.update('now')
  take()
  progress.line('saved')
  assert.equal(take(), '\r\x1b[Ksaved\nnow')
})

test('elsewhere plain lines come every ten seconds', () => {
  for (const { progress, clock, take } of [record(false), record(true, { TERM: 'dumb' })]) {
    progress.update('one')
    progress.update('two')
    clock.now = 10_000
    progress.update('three')
    progress.line('saved')
    progress.update('last', true)
    progress.end()
    assert.equal(take(), 'one\nthree\nsaved\nlast\n')
  }
})

test('a step says how far, loss, rate, time left and memory', () => {
  const event = { type: 'step', step: 7, steps: 120, epoch: 1, loss: 0.12345, averageLoss: 0.2, learningRate: 1e-4, gradNorm: 1 } as const
  const fast = stepLine({ ...event, stepsPerSecond: 3.456, etaSeconds: 3725, memoryBytes: 1.5 * 2 ** 30 })
  assert.equal(fast, 'step   7/120  loss 0.1235 (average 0.2000)  3.46 steps/s  ETA 1:02:05  1.50 GiB')
  const slow = stepLine({ ...event, stepsPerSecond: 0.4, etaSeconds: 61, memoryBytes: 300 * 2 ** 20 })
  assert.match(slow, /2\.50 s\/step {2}ETA 1:01 {2}300 MiB$/)
})

test('durations and sizes are short', () => {
  assert.deepEqual([0, 59.6, 3599, 3600].map(duration), ['0:00', '1:00', '59:59', '1:00:00'])
  assert.deepEqual([2 ** 20, 2 ** 30].map(memory), ['1 MiB', '1.00 GiB'])
})

test('a download is told in one line, its rate and what is left', () => {
  const start = {
    type: 'download-start',
    repository: 'o/m',
    commit: 'abcdef0123',
    files: 1,
    bytes: 6_938_000_000,
    resumedBytes: 0,
    folder: '/c',
  } as const
  assert.equal(downloadStartLine(start), 'fetching o/m at abcdef0 from the Hugging Face Hub: 1 file, 6.94 GB, to /c')
  assert.match(downloadStartLine({ ...start, files: 17, resumedBytes: 1e6 }), /: 17 files, 6.94 GB, 1.0 MB of them here already, to/)
  const event = {
    type: 'download',
    file: 'unet/a',
    done: 999_000_000,
    total: 6_938_000_000,
    bytesPerSecond: 41_300_000,
    etaSeconds: 143.8,
  } as const
  assert.equal(downloadLine(event), 'download  14%  1.00 GB of 6.94 GB  41.3 MB/s  ETA 2:24  unet/a')
})
