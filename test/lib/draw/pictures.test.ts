/** Whole pictures against diffusers' networks and schedulers (`scripts/goldens/pictures.py`). */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { generate } from '../../../lib/draw/generate.js'
import { Pipeline, type PipelineOptions } from '../../../lib/draw/pipeline.js'
import type { Session } from '../../../lib/native.js'
import type { SamplerName } from '../../../lib/options/samplers.js'
import { compare, type Golden, readGolden } from '../../train/golden.js'
import { goldenModel } from '../../train/hollow.js'

/** `scripts/goldens/pictures.py`, class Case. */
interface Case {
  prompt: string
  negative: string
  steps: number
  cfg: number
  seed: number
  width: number
  height: number
}

/** What networks are given, in order. */
interface Given {
  timesteps: number[]
  /** By step, of one picture. */
  inputs: number[]
  latents: Float32Array
}

/** Records what the networks of all pipelines that are opened from now on are given. */
function record(t: TestContext): Given {
  const given: Given = { timesteps: [], inputs: [], latents: new Float32Array(0) }
  const open = Pipeline.open.bind(Pipeline)
  t.mock.method(Pipeline, 'open', async (options: PipelineOptions) => {
    const pipeline = await open(options)
    const { session } = pipeline as unknown as { session: Session }
    const run = session.run.bind(session)
    const value: Session['run'] = (network, name, inputs, settings) => {
      if (name === 'predict') {
        const { latents, timesteps } = inputs
        given.timesteps.push(timesteps!.data[0]!)
        given.inputs.push(...latents!.data.subarray(0, latents!.data.length / latents!.shape[0]!))
      } else if (name === 'decode') given.latents = (inputs.latents!.data as Float32Array).map((x) => x * pipeline.model.scalingFactor)
      return run(network, name, inputs, settings)
    }
    Object.defineProperty(session, 'run', { value })
    return pipeline
  })
  return given
}

/** How far bytes are from a picture in [−1, 1] that was not rounded. */
function farthest(bytes: Buffer, image: Float32Array): number {
  assert.equal(bytes.length, image.length)
  const exact = image.map((value) => Math.min(255, Math.max(0, (value / 2 + 0.5) * 255)))
  return exact.reduce((most, value, i) => Math.max(most, Math.abs(value - bytes[i]!)), 0)
}

for (const name of ['golden-sd1-model', 'golden-sd2']) {
  let golden: Golden
  const samplers: SamplerName[] = ['Euler', 'Euler a', 'DPM++ 2M', 'DPM++ 2M Karras']
  for (const sampler of samplers)
    test(`${name}: ${sampler} draws the picture that diffusers draws, step by step`, async (t) => {
      const model = await goldenModel(name)
      golden ??= await readGolden(`${name}-pictures`, model)
      const { prompt, negative: negativePrompt, steps, cfg, seed, width, height } = golden.case as unknown as Case
      const given = record(t)
      const [image] = await generate({
        model,
        prompt,
        negativePrompt,
        sampler,
        steps,
        cfg,
        seed,
        width,
        height,
        device: 'cpu',
        precision: 'f32',
      })
      for (const [group, values] of Object.entries(given)) {
        const error = compare(golden, { title: '', device: 'cpu', computes: 'f32' }, group, [
          [`${group}/${sampler}`, Float32Array.from(values)],
        ])
        t.diagnostic(`${group}: relative error ${error.toExponential(1)}, PyTorch ${golden.naive.f32[group]!.toExponential(1)}`)
      }
      if (!golden.has(`image/${sampler}`)) return
      const bytes = await sharp(image!.png).removeAlpha().raw().toBuffer()
      assert.ok(farthest(bytes, golden.tensor(`image/${sampler}`)) < 0.501)
    })
}
