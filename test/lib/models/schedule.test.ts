import assert from 'node:assert/strict'
import { test } from 'node:test'
import { alphasCumprod } from '../../../lib/models/schedule.js'
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
