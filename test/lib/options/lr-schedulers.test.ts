import assert from 'node:assert/strict'
import { test } from 'node:test'
import { kohyaScheduler, learningRateAt, lrSchedulerNames } from '../../../lib/options/lr-schedulers.js'
import { resolveTrainOptions } from '../../../lib/options/resolve.js'
import { trainTable } from '../../../lib/options/table.js'
import { readSchedules } from '../../fixtures/schedules.js'

const golden = readSchedules()

for (const { lrScheduler, lrWarmupSteps, steps, values } of golden.rates) {
  test(`the learning rate, ${lrScheduler} after ${lrWarmupSteps} steps of warm-up, is diffusers'`, () => {
    for (const [i, value] of values.entries()) {
      const rate = learningRateAt(i + 1, steps, { learningRate: 1e-4, lrScheduler, lrWarmupSteps })
      assert.ok(Math.abs(rate - value) < 1e-16, `step ${i + 1}: ${rate} ${value}`)
    }
  })
}

test('a warm-up longer than the run, and a run of one step, give numbers', () => {
  const cosine = { learningRate: 1, lrScheduler: 'cosine' as const }
  assert.equal(learningRateAt(3, 3, { ...cosine, lrWarmupSteps: 10 }), 0.2)
  assert.equal(learningRateAt(1, 1, { ...cosine, lrWarmupSteps: 0 }), 1)
})

test("the option's words are the table's names, and kohya's names are understood", () => {
  assert.deepEqual(trainTable.lrScheduler.kind.words, lrSchedulerNames)
  for (const name of lrSchedulerNames) {
    for (const warmup of [0, 1]) {
      const given = kohyaScheduler(name, warmup) as typeof name
      assert.equal(resolveTrainOptions({ model: 'm', images: 'i', lrScheduler: given }).lrScheduler, name)
    }
  }
})
