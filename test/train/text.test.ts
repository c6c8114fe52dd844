/** Text encoders that are trained with the UNet, and without it, on the bundled model. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { TrainEvent } from '../../lib/events.js'
import { readHeader, readTensors } from '../../lib/files/safetensors.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { train } from '../../lib/train/run.js'
import { copyImages } from '../fixtures/images.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { trainUntil } from '../fixtures/training.js'

async function options(t: TestContext): Promise<TrainOptions & { output: string }> {
  const folder = await temporaryFolder(t)
  const images = await copyImages(folder, 3)
  const sizes = { resolution: 96, bucketMin: 32, bucketStep: 32, batchSize: 2, saveEvery: 0, steps: 4 }
  return { model: tiny, images, output: join(folder, 'out'), rank: 2, learningRate: 1e-3, seed: 3, savePrecision: 'f32', ...sizes }
}

/** Trains; returns the losses of the steps that were done, the LoRA and its state. */
async function run(given: TrainOptions & { output: string }, stopAfter?: number) {
  const cached = new Set<string>()
  const hear = (event: TrainEvent) => event.type === 'cache' && cached.add(event.kind)
  const { losses, result } = await trainUntil(given, stopAfter, hear)
  if (!result) return { losses, cached }
  const { path, statePath } = result
  return { losses, cached, lora: await readTensors(path), state: await readTensors(statePath), path }
}

const dataOf = (tensors: Map<string, { data: Float32Array }>, prefix: string) =>
  [...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, { data }]) => [name, data] as const)

test('text encoders train with the UNet: kohya’s names and metadata, the first loss of a training without them', async (t) => {
  const given = await options(t)
  const unet = await run({ ...given, output: `${given.output}-unet` })
  const both = await run({ ...given, textEncoderLr: 5e-4 })
  assert.equal(both.losses[0], unet.losses[0], 'up is 0 at first')
  assert.notDeepEqual(both.losses, unet.losses)
  assert.deepEqual([...both.cached], ['latents'], 'captions are not encoded ahead')
  const text = dataOf(both.lora!, 'lora_te_text_model_encoder_layers_')
  const layers = new Set(text.map(([name]) => name.replace(/^lora_te_text_model_encoder_layers_\d+_|\..*$/g, '')))
  const attention = ['q', 'k', 'v', 'out'].map((name) => `self_attn_${name}_proj`)
  assert.deepEqual([...layers].sort(), ['mlp_fc1', 'mlp_fc2', ...attention].sort())
  assert.equal(both.lora!.size, unet.lora!.size + text.length)
  for (const [name, data] of text)
    assert.ok(
      data.some((value) => value !== 0),
      name,
    )
  const { metadata } = await readHeader(both.path!)
  assert.deepEqual([metadata.ss_learning_rate, metadata.ss_text_encoder_lr, metadata.ss_unet_lr], ['0.001', '0.0005', 'None'])
  // The UNet's LoRA begins with the same numbers.
  const early = await run({ ...given, output: `${given.output}-still`, textEncoderLr: 5e-4, learningRate: 0, steps: 1 })
  const still = await run({ ...given, output: `${given.output}-zero`, learningRate: 0, steps: 1 })
  assert.deepEqual(dataOf(early.lora!, 'lora_unet_'), dataOf(still.lora!, 'lora_unet_'))
})

test('text encoders train alone, at the learning rate unless another is given', async (t) => {
  const given = { ...(await options(t)), networkTrainTextEncoderOnly: true }
  const alone = await run(given)
  assert.deepEqual(dataOf(alone.lora!, 'lora_unet_'), [])
  const named = await run({ ...given, output: `${given.output}-2`, textEncoderLr: [1e-3], learningRate: 0.5 })
  assert.deepEqual(named.lora, alone.lora)
  const slower = await run({ ...given, output: `${given.output}-3`, textEncoderLr: 1e-4 })
  assert.notDeepEqual(slower.lora, alone.lora)
})

test('text encoders stay as they are after their last step, and the UNet trains on', async (t) => {
  const given = { ...(await options(t)), textEncoderLr: 1e-3 }
  const two = await run({ ...given, output: `${given.output}-two`, steps: 2 })
  const stopped = await run({ ...given, stopTextEncoderTraining: 2 })
  const whole = await run({ ...given, output: `${given.output}-whole` })
  assert.deepEqual(dataOf(stopped.lora!, 'lora_te_'), dataOf(two.lora!, 'lora_te_'))
  assert.notDeepEqual(dataOf(stopped.lora!, 'lora_unet_'), dataOf(two.lora!, 'lora_unet_'))
  assert.deepEqual(stopped.losses.slice(0, 2), whole.losses.slice(0, 2))
  assert.equal(stopped.losses[2], whole.losses[2], 'the first step with encoded captions has the loss of one that encodes them')
  assert.deepEqual([...stopped.cached].sort(), ['latents', 'text'])
})

for (const change of [{}, { stopTextEncoderTraining: 2 }, { maxTokenLength: 150, clipSkip: 2 }])
  test(`a run that trains text encoders resumes to the bits of one that was not stopped: ${JSON.stringify(change)}`, async (t) => {
    const given = { ...(await options(t)), textEncoderLr: 1e-3, ...change }
    const whole = await run({ ...given, output: `${given.output}-whole`, threads: 2 })
    for (const step of [1, 3]) await run({ ...given, resume: true, threads: 1 }, step)
    const { lora, state } = await run({ ...given, resume: true, threads: 2 })
    assert.deepEqual({ lora, state }, { lora: whole.lora, state: whole.state })
  })

test('a state of other rates of text encoders is refused, and what contradicts the model', async (t) => {
  const given = { ...(await options(t)), steps: 1 }
  await run({ ...given, textEncoderLr: 1e-3 })
  const resumed = train({ ...given, textEncoderLr: 1e-4, resume: true })
  await assert.rejects(resumed, { code: 'STATE_MISMATCH', message: /textEncoderLr \[ 0.001 \] instead of \[ 0.0001 \]/ })
  const two = train({ ...given, textEncoderLr: [1e-4, 1e-4] })
  await assert.rejects(two, { code: 'OPTION_INVALID', message: /one rate for textEncoderLr, as this model has one text encoder,/ })
})
