import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ddimStep, ddimSteps, guide } from '../../../lib/draw/sampler.js'
import { readSchedules, schedulerOf } from '../../fixtures/schedules.js'
import { pattern } from '../../train/pattern.js'

for (const { config, steps, timesteps, path } of readSchedules().pictures) {
  const { beta_schedule, set_alpha_to_one, clip_sample } = config
  test(`DDIM draws as diffusers: ${steps} steps, ${beta_schedule}, to one ${set_alpha_to_one}, clipped ${clip_sample}`, () => {
    const scheduler = schedulerOf(config)
    const latents = pattern('latents', 8)
    const plan = ddimSteps(scheduler, steps)
    assert.deepEqual(
      plan.map(({ timestep }) => timestep),
      timesteps,
    )
    for (const [i, step] of plan.entries()) {
      ddimStep(latents, pattern(`noise ${i}`, 8), step, scheduler.clipSample)
      for (const [j, value] of path[i]!.entries()) assert.ok(Math.abs(latents[j]! - value) < 2e-5 * (1 + Math.abs(value)), `step ${i}`)
    }
  })
}

test('as many steps as timesteps end with the last one, never beyond', () => {
  const { config } = readSchedules().pictures[0]!
  const steps = ddimSteps(schedulerOf({ ...config, steps_offset: 1 }), 1000)
  assert.equal(steps.length, 1000)
  assert.equal(steps[0]!.timestep, 999)
  assert.ok(steps.every(({ alpha, alphaNext }) => alphaNext >= alpha && alphaNext <= 1))
})

test('guidance goes from the prediction without the prompt towards the one with it, and beyond', () => {
  const predictions = Float32Array.of(1, 2, 3, 6)
  assert.deepEqual(guide(predictions, 1), Float32Array.of(3, 6))
  assert.deepEqual(guide(predictions, 2), Float32Array.of(5, 10))
  assert.deepEqual(guide(predictions, 0), Float32Array.of(1, 2))
})
