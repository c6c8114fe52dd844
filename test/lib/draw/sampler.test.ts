import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { guide, trajectory } from '../../../lib/draw/sampler.js'
import type { PredictionType, SchedulerConfig } from '../../../lib/models/configs.js'
import { type SamplerName, samplerNames } from '../../../lib/options/samplers.js'
import { type Config, readSchedules, schedulerOf } from '../../fixtures/schedules.js'
import { pattern } from '../../train/pattern.js'

const unwanted = () => assert.fail('noise where none is used')

for (const { config, steps, timesteps, path } of readSchedules().pictures) {
  const { beta_schedule, set_alpha_to_one, clip_sample } = config
  test(`DDIM draws as diffusers: ${steps} steps, ${beta_schedule}, to one ${set_alpha_to_one}, clipped ${clip_sample}`, () => {
    const latents = pattern('latents', 8)
    const plan = trajectory('DDIM', schedulerOf(config), steps)
    assert.equal(plan.scale, 1)
    assert.deepEqual(
      plan.steps.map(({ timestep }) => timestep),
      timesteps,
    )
    for (const [i, { advance }] of plan.steps.entries()) {
      advance(latents, pattern(`noise ${i}`, 8), unwanted)
      for (const [j, value] of path[i]!.entries()) assert.ok(Math.abs(latents[j]! - value) < 2e-5 * (1 + Math.abs(value)), `step ${i}`)
    }
  })
}

/** What `scripts/goldens/samplers.py` wrote. */
interface Golden {
  pictures: { sampler: SamplerName; config: Config; timesteps: number[]; path: number[][] }[]
  /** sha256 of DDIM's timesteps, of 1 to 1000 steps. */
  timesteps: Record<SchedulerConfig['timestepSpacing'], string>
}

const golden = JSON.parse(
  readFileSync(fileURLToPath(new URL('../../../../test/fixtures/samplers.json', import.meta.url)), 'utf8'),
) as Golden
const sd1 = readSchedules().pictures[0]!.config

function schedulerFor(predictionType: PredictionType, rescaleBetasZeroSnr: boolean): SchedulerConfig {
  return { ...schedulerOf({ ...sd1, rescale_betas_zero_snr: rescaleBetasZeroSnr }), predictionType }
}

/** What sets a config apart, for a test's name. */
function differences({ num_train_timesteps: _n, beta_start: _s, beta_end: _e, beta_schedule: _b, ...config }: Config): string {
  return Object.entries(config)
    .map(([key, value]) => `${key} ${value}`)
    .join(', ')
}

for (const [spacing, expected] of Object.entries(golden.timesteps)) {
  test(`DDIM goes through diffusers' timesteps, whatever the number of steps: ${spacing}`, () => {
    const scheduler = schedulerOf({ ...sd1, steps_offset: 0, timestep_spacing: spacing as SchedulerConfig['timestepSpacing'] })
    const all = Array.from({ length: 1000 }, (_, i) => trajectory('DDIM', scheduler, i + 1).steps.map(({ timestep }) => timestep))
    assert.equal(createHash('sha256').update(JSON.stringify(all)).digest('hex'), expected)
  })
}

for (const { sampler, config, timesteps, path } of golden.pictures) {
  const count = timesteps.length
  test(`${sampler} draws as diffusers: ${count} steps, ${differences(config)}`, () => {
    const plan = trajectory(sampler, schedulerOf(config), count)
    // diffusers rounds Karras's timesteps for DPM-Solver; k-diffusion, and so A1111, does not.
    const allowed = sampler === 'DPM++ 2M Karras' ? 0.501 : 2e-3
    for (const [i, { timestep }] of plan.steps.entries())
      assert.ok(Math.abs(timestep - timesteps[i]!) < allowed, `timestep ${i}: ${timestep}`)
    const latents = pattern('latents', 8).map((value) => value * plan.scale)
    for (const [i, { advance }] of plan.steps.entries()) {
      advance(latents, pattern(`prediction ${i}`, 8), () => (sampler === 'Euler a' ? pattern(`noise ${i}`, 8) : unwanted()))
      for (const [j, value] of path[i]!.entries()) {
        // diffusers adds in f32 what is as large as the first latents and nearly cancels.
        const error = 3e-5 * (1 + Math.abs(value)) + 2 ** -23 * plan.scale
        assert.ok(Math.abs(latents[j]! - value) < error, `step ${i}: ${latents[j]} for ${value}`)
      }
    }
  })
}

test('the UNet gets latents of unit variance at a timestep of the training, whatever the sampler and the steps', () => {
  for (const sampler of samplerNames) {
    for (const zero of [false, true]) {
      for (const count of [1, 2, 3, 31, 1000]) {
        const { scale, steps } = trajectory(sampler, schedulerFor('v_prediction', zero), count)
        assert.equal(steps.length, count)
        assert.ok(Math.abs(scale * steps[0]!.scale - 1) < 0.01, `${sampler} ${scale} ${steps[0]!.scale}`)
        for (const [i, { timestep }] of steps.entries()) {
          assert.ok(timestep >= 0 && timestep <= 999 && (i === 0 || timestep <= steps[i - 1]!.timestep), `${sampler} ${count} ${timestep}`)
        }
      }
    }
  }
})

test('every sampler ends in the picture, if the prediction is right', () => {
  const [clean, noise] = [pattern('clean', 8), pattern('noise', 8)]
  for (const sampler of samplerNames.filter((name) => name !== 'DDIM')) {
    for (const prediction of ['epsilon', 'v_prediction'] as const) {
      const { scale, steps } = trajectory(sampler, schedulerFor(prediction, prediction === 'v_prediction'), 12)
      const latents = noise.map((value, i) => value * scale + clean[i]!)
      for (const step of steps) {
        const sigma = Math.sqrt(1 / step.scale ** 2 - 1)
        // x₀ is known, so what is left of the latents is the noise in them.
        const epsilon = latents.map((x, i) => (x - clean[i]!) / sigma)
        const v = epsilon.map((value, i) => (value - sigma * clean[i]!) * step.scale)
        step.advance(latents, prediction === 'epsilon' ? epsilon : v, () => noise)
      }
      for (const [i, value] of clean.entries()) assert.ok(Math.abs(latents[i]! - value) < 1e-3, `${sampler} ${prediction}`)
    }
  }
})

test('as many steps as timesteps end with the last one, never beyond', () => {
  const { steps } = trajectory('DDIM', schedulerOf({ ...sd1, steps_offset: 1 }), 1000)
  assert.equal(steps.length, 1000)
  assert.equal(steps[0]!.timestep, 999)
})

test('guidance goes from the prediction without the prompt towards the one with it, and beyond', () => {
  const predictions = Float32Array.of(1, 2, 3, 6)
  assert.deepEqual(guide(predictions, 1), Float32Array.of(3, 6))
  assert.deepEqual(guide(predictions, 2), Float32Array.of(5, 10))
  assert.deepEqual(guide(predictions, 0), Float32Array.of(1, 2))
})
