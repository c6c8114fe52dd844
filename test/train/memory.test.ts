/** What a run holds in this machine's memory is what its plan says. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { TrainEvent } from '../../lib/events.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { place, run } from '../fixtures/training.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** What the arrays of one batch, and of its losses, may take. */
const MOST_BATCH = 2 ** 20

const cases: [string, Partial<TrainOptions>][] = [
  ['the UNet alone', { flip: true, maxTokenLength: 225 }],
  ['text encoders, which stop', { textEncoderLr: 1e-4, stopTextEncoderTraining: 1 }],
]

for (const [what, change] of cases)
  test(`arrays that are held while training are those that are planned, resumed or not: ${what}`, async (t) => {
    const given = { ...(await place(t)), rank: 64, convRank: 64, device: 'cpu' as const, ...change }
    let [planned, steps] = [0, 0]
    const onEvent = (event: TrainEvent) => {
      if (event.type === 'start') planned = event.memory.host
      if (event.type !== 'step') return
      collect()
      const excess = process.memoryUsage().arrayBuffers - planned
      assert.ok(Math.abs(excess) < MOST_BATCH, `${excess} bytes more than the plan at step ${event.step}`)
      steps += 1
    }
    await run({ ...given, steps: 2 }, onEvent)
    await run({ ...given, steps: 4, resume: true }, onEvent)
    assert.equal(steps, 4)
  })
