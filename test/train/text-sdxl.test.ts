/** Both of SDXL's text encoders are trained, on the small golden model: rates, an early end of their training, kills, long captions. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { readHeader, readTensors } from '../../lib/files/safetensors.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { runPath, trainUntil } from '../fixtures/training.js'
import { goldenModel, singleFile } from './hollow.js'

type Given = TrainOptions & { output: string }

/** Three images of two shapes, one with a caption of more than 75 tokens; two of them make a batch. */
async function options(t: TestContext): Promise<Given> {
  const images = await temporaryFolder(t)
  const captions = ['a red apple', 'a blue castle on a hill', 'an old wooden rocket, very large, '.repeat(14)]
  for (const [i, caption] of captions.entries()) {
    const size = { width: i === 2 ? 96 : 64, height: 64, channels: 3 as const, background: { r: 80 * i, g: 90, b: 200 } }
    await sharp({ create: size }).toFile(join(images, `${i}.png`))
    await writeFile(join(images, `${i}.txt`), caption)
  }
  const sizes = { resolution: 64, bucketMin: 32, bucketStep: 32, batchSize: 2, gradientAccumulation: 2, saveEvery: 0, steps: 4 }
  const rates = { learningRate: 1e-3, textEncoderLr: [1e-4, 5e-5] }
  const model = await goldenModel('golden-sdxl-model')
  const output = join(await temporaryFolder(t), 'out')
  return { model, images, output, rank: 2, seed: 5, savePrecision: 'f32', flip: true, ...sizes, ...rates }
}

/** Trains to the end, or until a step is done; returns the losses, and the tensors of LoRA and state. */
async function run(given: Given, stopAfter?: number) {
  const { losses, result } = await trainUntil(given, stopAfter)
  if (!result) return { losses, lora: new Map(), state: new Map() }
  return { losses, lora: await readTensors(result.path), state: await readTensors(result.statePath) }
}

/** The parts of a LoRA that belong to one network. */
const of = (lora: Map<string, { data: Float32Array }>, prefix: string) =>
  [...lora].filter(([name]) => name.startsWith(`lora_${prefix}_`)).map(([name, { data }]) => [name, data] as const)

test('each encoder has its own rate; one rate is that of both, and 0 leaves one out', async (t) => {
  const given = { ...(await options(t)), steps: 2 }
  const both = await run({ ...given, output: `${given.output}-both` })
  const { metadata } = await readHeader(join(`${given.output}-both`, 'lora.safetensors'))
  assert.equal(metadata.ss_text_encoder_lr, '[0.0001, 5e-05]')
  for (const prefix of ['unet', 'te1', 'te2']) assert.ok(of(both.lora, prefix).length > 0, prefix)
  const one = await run({ ...given, output: `${given.output}-one`, textEncoderLr: 1e-4 })
  const same = await run({ ...given, output: `${given.output}-same`, textEncoderLr: [1e-4, 1e-4] })
  assert.deepEqual([same.lora, same.state, same.losses], [one.lora, one.state, one.losses])
  // The first step moves each part by its own rate alone.
  const first = async (textEncoderLr: number[]) =>
    (await run({ ...given, output: `${given.output}-${textEncoderLr}`, steps: 1, textEncoderLr })).lora
  const [slow, fast] = [await first([1e-4, 5e-5]), await first([1e-4, 1e-4])]
  for (const prefix of ['unet', 'te1']) assert.deepEqual(of(fast, prefix), of(slow, prefix), prefix)
  assert.notDeepEqual(of(fast, 'te2'), of(slow, 'te2'))
  const second = await first([0, 5e-5])
  assert.deepEqual([of(second, 'te1').length, of(second, 'te2').length], [0, of(slow, 'te2').length])
})

for (const maxTokenLength of [75, 225]) {
  test(`captions encoded by the steps have the loss of captions that are cached, ${maxTokenLength} tokens`, async (t) => {
    const given = { ...(await options(t)), maxTokenLength }
    const cached = await run({ ...given, output: `${given.output}-cached`, textEncoderLr: undefined, steps: 1 })
    // While up is 0 the adapters do nothing.
    const encoded = await run({ ...given, steps: 1 })
    assert.equal(encoded.losses[0], cached.losses[0])
    // After the encoders' last step their captions are encoded once and held.
    const whole = await run({ ...given, output: `${given.output}-whole`, steps: 3 })
    const stopped = await run({ ...given, output: `${given.output}-stopped`, steps: 3, stopTextEncoderTraining: 2 })
    assert.deepEqual(stopped.losses, whole.losses)
    for (const prefix of ['te1', 'te2']) assert.notDeepEqual(of(stopped.lora, prefix), of(whole.lora, prefix))
  })
}

for (const change of [{}, { maxTokenLength: 225, stopTextEncoderTraining: 2 }, { textEncoderLr: [0, 5e-5] }])
  test(`stopped twice, and resumed from one file and from a folder, a run has the bits of a whole one: ${JSON.stringify(change)}`, async (t) => {
    const given = { ...(await options(t)), ...change }
    const whole = await run({ ...given, output: `${given.output}-whole`, threads: 2 })
    const file = await singleFile('sdxl.safetensors')
    await run({ ...given, threads: 1 }, 1)
    await run({ ...given, model: file, resume: true, threads: 1 }, 3)
    const { lora, state } = await run({ ...given, resume: true, threads: 2 })
    assert.deepEqual([lora, state], [whole.lora, whole.state])
  })

test('killed in the middle of a step, a run that trains text encoders resumes to the bits of a whole one', async (t) => {
  const given = { ...(await options(t)), saveEvery: 1, steps: 5, stopTextEncoderTraining: 3 }
  const whole = await run({ ...given, output: `${given.output}-whole` })
  const code = `
    import(${JSON.stringify(runPath)}).then(({ train }) => train(${JSON.stringify(given)}, { onEvent: ({ type }) => console.log(type) }))`
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
  let saved = 0
  for await (const line of createInterface(child.stdout)) if (line === 'checkpoint' && ++saved === 2) child.kill('SIGKILL')
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  assert.equal(child.signalCode, 'SIGKILL')
  const resumed = await run({ ...given, resume: true })
  assert.ok(resumed.losses.length < whole.losses.length && resumed.losses.length > 0)
  assert.deepEqual(resumed.losses, whole.losses.slice(-resumed.losses.length))
  assert.deepEqual([resumed.lora, resumed.state], [whole.lora, whole.state])
})
