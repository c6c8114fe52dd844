import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { copyFile, cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import type { TrainEvent } from '../../lib/events.js'
import { hashFiles } from '../../lib/files/hashes.js'
import { readHeader, readTensors } from '../../lib/files/safetensors.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { train } from '../../lib/train/run.js'
import { newestState } from '../../lib/train/states.js'
import { copyImages } from '../fixtures/images.js'
import { tiny } from '../fixtures/lora.js'
import { alteredModel, vaeFile } from '../fixtures/models.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { trainUntil } from '../fixtures/training.js'

/** Four square images and a wide one, so that there are two buckets; all that is random is on. */
async function options(t: TestContext): Promise<TrainOptions & { output: string }> {
  const folder = await temporaryFolder(t)
  const images = await copyImages(folder, 4)
  await sharp({ create: { width: 200, height: 90, channels: 3, background: 'red' } }).toFile(join(images, 'wide.png'))
  await writeFile(join(images, 'wide.txt'), 'a red flag')
  const random = { flip: true, randomCrop: true, batchSize: 2, gradientAccumulation: 2, seed: 11 }
  const model = { model: tiny, rank: 2, learningRate: 1e-3, maxGradNorm: 0.01 }
  return { ...model, ...random, images, output: join(folder, 'out'), resolution: 96, bucketMin: 32, bucketStep: 32, saveEvery: 0, steps: 7 }
}

/** Adapters and moments of the state beside a LoRA, and the LoRA's tensors. */
async function bits(output: string, name = 'lora') {
  const state = await readTensors(join(output, `${name}.state`))
  return { state, lora: await readTensors(join(output, `${name}.safetensors`)) }
}

const without = (code: string) => (event: TrainEvent) => assert.notEqual(event.type === 'warning' ? event.code : '', code)

for (const lrScheduler of ['constant', 'cosine'] as const) {
  test(`a run that is stopped twice and resumed ends in the bits of one that is not, ${lrScheduler} rate, other threads`, async (t) => {
    const given: TrainOptions & { output: string } = { ...(await options(t)), lrScheduler, lrWarmupSteps: 2 }
    await train({ ...given, output: `${given.output}-whole`, threads: 2 })
    await trainUntil({ ...given, threads: 1 }, 2)
    await trainUntil({ ...given, resume: true, threads: 2 }, 5)
    const events: TrainEvent[] = []
    const { step } = await train({ ...given, resume: true, threads: 1 }, { onEvent: (event) => events.push(event) })
    assert.equal(step, 7)
    assert.deepEqual(
      events.flatMap((event) => (event.type === 'step' ? [event.step] : event.type === 'start' ? [event.resumedFrom] : [])),
      [5, 6, 7],
    )
    assert.deepEqual(await bits(given.output), await bits(`${given.output}-whole`))
  })
}

test('a finished run can go on with more steps, as if it had had them from the start; its session stays the same', async (t) => {
  const given = await options(t)
  await train({ ...given, output: `${given.output}-whole` })
  await train({ ...given, steps: 3 })
  const before = (await readHeader(join(given.output, 'lora.safetensors'))).metadata
  await train({ ...given, resume: join(given.output, 'lora.state') })
  assert.deepEqual(await bits(given.output), await bits(`${given.output}-whole`))
  const { metadata } = await readHeader(join(given.output, 'lora.safetensors'))
  assert.equal(metadata.ss_session_id, before.ss_session_id)
  assert.equal(metadata.ss_training_started_at, before.ss_training_started_at)
  assert.deepEqual([before.ss_steps, metadata.ss_steps], ['3', '7'])
})

test('resuming what is finished writes it again, the same', async (t) => {
  const given = { ...(await options(t)), steps: 2 }
  await train(given)
  const before = await bits(given.output)
  await rm(join(given.output, 'lora.safetensors'))
  const result = await train({ ...given, resume: true })
  assert.equal(result.loss, undefined)
  assert.deepEqual(await bits(given.output), before)
  await assert.rejects(train({ ...given, steps: 1, resume: true }), { code: 'STATE_MISMATCH', message: /at most 1 step but.*of 2/ })
})

test('what does not change the result may differ: place, name of the folder, saving, threads', async (t) => {
  const given = await options(t)
  await trainUntil(given, 1)
  const moved = `${given.images}-moved`
  await rename(given.images, moved)
  const state = join(given.output, 'lora-step00000001.state')
  const change = {
    images: moved,
    output: `${given.output}-2`,
    name: 'other',
    saveEvery: 1,
    savePrecision: 'f32',
    steps: 2,
    resume: state,
  } as const
  assert.equal((await train({ ...given, ...change })).step, 2)
})

test('a state of another model, other images or other settings is refused, and says what differs', async (t) => {
  const given = await options(t)
  await trainUntil(given, 1)
  const before = (await readdir(given.output)).sort()
  const refuse = async (change: Partial<TrainOptions>, message: RegExp) => {
    await assert.rejects(train({ ...given, resume: true, ...change }), { code: 'STATE_MISMATCH', message })
    assert.deepEqual((await readdir(given.output)).sort(), before)
  }
  await refuse({ rank: 4, alpha: 2 }, /rank 2 instead of 4;/)
  await refuse({ seed: 12, learningRate: 1e-4 }, /learningRate 0\.001 instead of 0\.0001, seed 11 instead of 12;/)
  await refuse({ targets: 'attention' }, /targets "default" instead of "attention"/)
  await refuse({ lrScheduler: 'cosine' }, /lrScheduler "constant" instead of "cosine", steps none instead of 7/)
  for (const part of ['unet', 'vae', 'text_encoder'] as const) {
    const model = await alteredModel(await temporaryFolder(t), Uint8Array.of(1, 2), part)
    const message = new RegExp(`received one of another model \\(${part}\\);`)
    await refuse({ model }, message)
    if (part === 'vae') await refuse({ vae: join(model, 'vae') }, message)
    if (part === 'text_encoder') await refuse({ textEncoder: [join(model, part)] }, message)
  }
  const wide = join(given.images, 'wide.png')
  const red = await readFile(wide)
  await sharp({ create: { width: 200, height: 90, channels: 3, background: 'blue' } }).toFile(wide)
  await refuse({}, /received one of images of the same names but other contents;/)
  await writeFile(wide, red)
  await writeFile(join(given.images, 'wide.txt'), 'a green flag')
  await refuse({}, /received one of other images or captions;/)
})

test('a model that lies elsewhere, or whose parts are named one by one, is the same', async (t) => {
  const given = await options(t)
  await train({ ...given, output: `${given.output}-whole` })
  await trainUntil({ ...given, vae: join(tiny, 'vae') }, 2)
  const model = join(await temporaryFolder(t), 'another name')
  await cp(tiny, model, { recursive: true })
  await trainUntil({ ...given, model, resume: true }, 4)
  const { path } = await train({ ...given, vae: join(model, 'vae'), textEncoder: join(model, 'text_encoder'), resume: true })
  const { metadata } = await readHeader(path)
  assert.deepEqual([metadata.ss_vae_name, metadata.ss_new_vae_hash], ['vae', await hashFiles([join(tiny, vaeFile)])])
  assert.deepEqual(await bits(given.output), await bits(`${given.output}-whole`))
})

test('options that mean the same in other words resume', async (t) => {
  const given = { ...(await options(t)), bucketMax: 100, lrScheduler: 'cosine' as const, steps: undefined, epochs: 3 }
  const { step: steps } = await train({ ...given, output: `${given.output}-whole` })
  await trainUntil({ ...given, bucketMin: 32 }, 1)
  const words = { networkTrainUnetOnly: true, textEncoderLr: 0, predictionType: 'epsilon', precision: 'f32', alpha: 2 } as const
  await train({ ...given, bucketMin: 60, bucketMax: 128, epochs: undefined, steps, ...words, resume: true })
  assert.deepEqual(await bits(given.output), await bits(`${given.output}-whole`))
})

test('a state that is missing or damaged is refused; without any the training starts anew and says so', async (t) => {
  const given = { ...(await options(t)), steps: 2 }
  await assert.rejects(train({ ...given, resume: 'nowhere.safetensors' }), { code: 'STATE_NOT_FOUND' })
  const warnings: string[] = []
  await train({ ...given, resume: true }, { onEvent: (event) => event.type === 'warning' && warnings.push(event.code) })
  assert.deepEqual(warnings, ['NO_STATE'])
  const path = join(given.output, 'lora.state')
  const bytes = await readFile(path)
  bytes[bytes.length - 10]! ^= 255
  await writeFile(path, bytes)
  await assert.rejects(train({ ...given, resume: true }, { onEvent: without('NO_STATE') }), { code: 'STATE_INVALID' })
  await assert.rejects(train({ ...given, resume: join(given.output, 'lora.safetensors') }), {
    code: 'STATE_INVALID',
    message: /named ….state/,
  })
  await mkdir(join(given.output, 'folder'))
  await assert.rejects(train({ ...given, resume: join(given.output, 'folder') }), {
    code: 'FILE_UNREADABLE',
    message: /the folder .*; name a .state file in it, or leave the path out/,
  })
})

test('after an older state was resumed, each new state is there when its event comes, and the last is the newest', async (t) => {
  const given = { ...(await options(t)), saveEvery: 1 }
  await train({ ...given, steps: 2 })
  const older = join(given.output, 'older.state')
  await copyFile(join(given.output, 'lora.state'), older)
  await train({ ...given, steps: 6, resume: true })
  const seen: [number, boolean][] = []
  const onEvent = (event: TrainEvent) => event.type === 'checkpoint' && seen.push([event.step, existsSync(event.statePath)])
  const { statePath } = await train({ ...given, steps: 5, resume: older }, { onEvent })
  assert.deepEqual(seen, [
    [3, true],
    [4, true],
    [5, true],
  ])
  assert.equal(await newestState(given.output, 'lora'), statePath)
  const states = (await readdir(given.output)).filter((name) => name.startsWith('lora') && name.endsWith('.state'))
  assert.deepEqual(states.sort(), ['lora-step00000005.state', 'lora.state'])
})
