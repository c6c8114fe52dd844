import assert from 'node:assert/strict'
import { test } from 'node:test'
import { alphasCumprod } from '../../../lib/models/schedule.js'
import { type Coefficients, objectives } from '../../../lib/train/objective.js'
import { schedulerOf } from '../../fixtures/schedules.js'

const scheduler = schedulerOf({ num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' })
const matrix = ({ noisy, target }: Coefficients) => [noisy, target] as const
const close = (values: number[], expected: number[]) => {
  for (const [i, value] of values.entries()) assert.ok(Math.abs(value - expected[i]!) < 1e-12, `${values} ${expected}`)
}

test('ε: the noisy latents keep their variance, and the target is the noise alone', () => {
  const levels = objectives.epsilon.levels(scheduler)
  assert.deepEqual(levels, alphasCumprod(scheduler))
  for (const alpha of [levels[0]!, levels[500]!, levels[999]!]) {
    assert.deepEqual(objectives.epsilon.coefficients(alpha), { noisy: [Math.sqrt(alpha), Math.sqrt(1 - alpha)], target: [0, 1] })
  }
})

test('v: with the noisy latents it gives x₀ and ε back', () => {
  for (const alpha of [0.9991, 0.5, 0.0047]) {
    const [[a, b], [c, d]] = matrix(objectives.v_prediction.coefficients(alpha))
    const [clean, noise] = [0.7, -1.3]
    const [noisy, v] = [a * clean + b * noise, c * clean + d * noise]
    close([a * noisy - b * v, b * noisy + a * v], [clean, noise])
  }
})

test('flow: the velocity leads from x₀ to ε along a straight line', () => {
  const levels = objectives.flow.levels(scheduler)
  assert.deepEqual([levels.length, levels[0], levels[250]], [1000, 0, 0.25])
  for (const sigma of [0, 0.25, 1]) {
    const [[a, b], [c, d]] = matrix(objectives.flow.coefficients(sigma))
    const [clean, noise] = [0.7, -1.3]
    const [noisy, velocity] = [a * clean + b * noise, c * clean + d * noise]
    close([noisy - sigma * velocity, noisy + (1 - sigma) * velocity], [clean, noise])
  }
})
