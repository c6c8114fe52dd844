import assert from 'node:assert/strict'
import { test } from 'node:test'
import { alphasCumprod } from '../../../lib/models/schedule.js'
import { objectives } from '../../../lib/train/objective.js'
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

test('with zero terminal SNR the first ᾱ stays, the last is 0, and a step at it learns minus the image from noise alone', () => {
  const config = schedulerOf(golden.alphas[0]!.config)
  const [usual, zero] = [alphasCumprod(config), alphasCumprod({ ...config, rescaleBetasZeroSnr: true })]
  assert.ok(Math.abs(zero[0]! / usual[0]! - 1) < 1e-12)
  assert.equal(zero.at(-1), 0)
  for (let t = 1; t < zero.length; t++) assert.ok(zero[t]! < zero[t - 1]! && zero[t]! < usual[t]!)
  const { noisy, target } = objectives.v_prediction.coefficients(0)
  assert.deepEqual(
    [noisy, target],
    [
      [0, 1],
      [-1, 0],
    ],
  )
})
