import assert from 'node:assert/strict'
import { test } from 'node:test'
import { alphasCumprod, learningRateAt } from '../../../lib/models/schedule.js'
import { readSchedules, schedulerOf } from '../../fixtures/schedules.js'

const golden = readSchedules()

// diffusers multiplies a thousand factors in f32, each off by up to 6e-8.
const ERROR = 1e-5

for (const { config, timesteps, values } of golden.alphas) {
  test(`ᾱ of ${config.beta_schedule} betas is diffusers'`, () => {
    const alphas = alphasCumprod(schedulerOf(config))
    assert.equal(alphas.length, config.num_train_timesteps)
    for (const [i, t] of timesteps.entries()) assert.ok(Math.abs(alphas[t]! / values[i]! - 1) < ERROR, `${t}: ${alphas[t]} ${values[i]}`)
  })
}

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
