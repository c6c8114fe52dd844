import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { attachAdapters } from '../../../lib/adapters/adapter.js'
import { lora } from '../../../lib/adapters/lora.js'
import { Batches } from '../../../lib/data/batches.js'
import type { StepEvent, TrainEvent } from '../../../lib/events.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { alphasCumprod } from '../../../lib/models/schedule.js'
import { sd1 } from '../../../lib/models/sd1.js'
import { asIs, resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { normal } from '../../../lib/random.js'
import { imagesMetadata } from '../../../lib/train/images-metadata.js'
import { isMirrored, StepInputs } from '../../../lib/train/inputs.js'
import { LossScale } from '../../../lib/train/loss-scale.js'
import { optimizers } from '../../../lib/train/optimizers.js'
import { OutputFolder } from '../../../lib/train/output.js'
import { trainedParts } from '../../../lib/train/parts.js'
import { readState, stateBuffers } from '../../../lib/train/state.js'
import { type TrainContext, Trainer } from '../../../lib/train/trainer.js'
import { FakeSession } from '../../fixtures/fake-session.js'
import { schedulerOf } from '../../fixtures/schedules.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const scheduler = schedulerOf({ num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' })
const model = { name: 'm', family: sd1, scheduler, latentChannels: 4, contextDim: 3, contextLength: 2, pooledDim: 0, timeIds: false }
const square = { width: 8, height: 8 }
const sizes = { original: square, crop: { left: 0, top: 0 }, target: square }

/** Three images, whose latents are all 1, 2 or 3, mirrored negative; the third is of another size. */
const samples = [1, 2, 3].map((value) => {
  const size = value === 3 ? 2 : 1
  const latents = (each: number) => new Float32Array(size * 4).fill(each)
  return {
    latents: { height: 1, width: size, plain: latents(value), mirrored: latents(-value), sizes: { plain: sizes, mirrored: sizes } },
    text: { context: new Float32Array(model.contextLength * model.contextDim).fill(value * 10) },
  }
})

const once = (index: number) => ({ index, repeats: 1 })

async function setUp(t: TestContext, given: Partial<TrainOptions>, context: TrainContext = {}, device: 'cpu' | 'cuda' = 'cpu') {
  const output = await temporaryFolder(t)
  const options = resolveTrainOptions({
    ...{ model: 'm', images: 'i', output, name: 'fake', saveEvery: 0, learningRate: 0.1, rank: 1 },
    ...given,
  })
  const session = new FakeSession()
  const parts = trainedParts(options, sd1, asIs)
  const adapters = attachAdapters(session, lora, parts, options, optimizers.adamw.spec)
  const batches = new Batches([[once(0), once(1)], [once(2)]], options)
  const events: TrainEvent[] = []
  const steps = options.epochs === undefined ? options.steps : options.epochs * batches.updatesPerEpoch
  const bucket = { width: 8, height: 8, resized: { width: 8, height: 8 } }
  const images = samples.map((_, i) => ({ path: `${i}.png`, caption: '', repeats: 1, width: 8, height: 8, folder: 'i', bucket }))
  const info = {
    options,
    precision: 'fp16' as const,
    optimizer: optimizers.adamw,
    images: await imagesMetadata(images, options),
    run: { sessionId: 1, startedAt: 2 },
    steps,
    batches,
    model,
    hashes: { hash: 'h', legacyHash: 'l' },
  }
  const identity = { model: { unet: 'h' }, images: 'i', contents: 'f', tokens: 't', settings: { rank: options.rank } }
  const lossScale = new LossScale({ device, precision: 'fp16' })
  const files = new OutputFolder(options, adapters, loraPrefixes(sd1, {}))
  const onEvent = (event: TrainEvent) => {
    events.push(event)
    context.onEvent?.(event)
  }
  const encode = () => assert.fail('captions are encoded')
  const inputs = new StepInputs({ ...options, samples, batches, model: { ...model, tokenizers: {} }, lastTextStep: 0, encode })
  const trainer = new Trainer(
    {
      session,
      batches,
      inputs,
      parts,
      lastTextStep: 0,
      output: files,
      info,
      identity,
      lossScale,
      from: 0,
      overwritten: async () => undefined,
    },
    { ...context, onEvent },
  )
  const read = (path: string) => readState(path, identity, stateBuffers(session))
  return { trainer, session, events, output, batches, read }
}

const stepsOf = (events: TrainEvent[]) => events.filter((event): event is StepEvent => event.type === 'step')

test('a step takes the noise of its place, the coefficients of its timestep and the context of its image', async (t) => {
  const { trainer, session, batches } = await setUp(t, { steps: 6, batchSize: 2, seed: 9, flip: true })
  await trainer.train()
  const alphas = alphasCumprod(scheduler)
  for (const [i, input] of session.steps.entries()) {
    const step = i + 1
    const [batch] = await batches.of(step)
    const [n = 0, h, w = 0] = input.shape
    assert.deepEqual([n, h, w], [batch!.length, 1, batch![0] === 2 ? 2 : 1])
    batch!.forEach((image, index) => {
      const part = (values: Float32Array) => values.subarray((index * values.length) / n, ((index + 1) * values.length) / n)
      const { latents, text } = samples[image]!
      assert.deepEqual(part(input.latents!), isMirrored(9, step, index) ? latents.mirrored : latents.plain)
      assert.deepEqual(part(input.context!), text.context)
      assert.deepEqual(part(input.noise!), normal({ seed: 9, stream: 'noise', step, index }, 4 * w))
      const alpha = alphas[input.timesteps![index]!]!
      assert.deepEqual(part(input.coefficients!), Float32Array.of(Math.sqrt(alpha), Math.sqrt(1 - alpha)))
      assert.deepEqual(part(input.target_coefficients!), Float32Array.of(0, 1))
      assert.equal(input.weights[index], Math.fround(1 / n))
    })
  }
  assert.equal(new Set(session.steps.map(({ noise }) => noise!.join())).size, session.steps.length)
})

test('a step of SDXL takes the pooled text and the sizes of its image, those of the mirror image where it is mirrored', async () => {
  const options = resolveTrainOptions({ model: 'm', images: 'i', batchSize: 2, flip: true, seed: 9 })
  const own = { ...model, tokenizers: {}, pooledDim: 2, timeIds: true }
  const large = samples.map(({ latents, text }, i) => ({
    latents: { ...latents, sizes: { plain: { ...sizes, crop: { left: i, top: 0 } }, mirrored: { ...sizes, crop: { left: -i, top: 0 } } } },
    text: { ...text, pooled: Float32Array.of(i, -i) },
  }))
  const batches = new Batches([[once(0), once(1)], [once(2)]], options)
  const encode = () => assert.fail('captions are encoded')
  const inputs = new StepInputs({ ...options, samples: large, batches, model: own, lastTextStep: 0, encode })
  let step = 0
  for await (const { latents, pooled, time_ids } of inputs.range(1, 8)) {
    const [batch] = await batches.of(++step)
    assert.deepEqual(pooled!.shape, [batch!.length, 2])
    assert.deepEqual(time_ids!.shape, [batch!.length, 6])
    assert.deepEqual(
      [...pooled!.data],
      batch!.flatMap((i) => [i, -i]),
    )
    const side = (index: number) => (isMirrored(9, step, index) ? -1 : 1)
    const left = batch!.map((i, index) => i * side(index))
    assert.deepEqual(
      [...time_ids!.data],
      left.flatMap((each) => [8, 8, 0, each, 8, 8]),
    )
    assert.equal(Math.sign(latents!.data[0]!), side(0))
    assert.deepEqual(Object.keys(inputs.shapesOf(batch!, step)).slice(-2), ['pooled', 'time_ids'])
  }
  assert.equal(step, 8)
})

test('both mirror images and plain ones are seen, and timesteps all over the range', async (t) => {
  const { trainer, session } = await setUp(t, { steps: 300, flip: true })
  await trainer.train()
  const mirrored = session.steps.filter(({ latents }) => latents![0]! < 0).length
  assert.ok(mirrored > 100 && mirrored < 200)
  const timesteps = session.steps.map(({ timesteps }) => timesteps![0]!)
  assert.ok(Math.min(...timesteps) < 30 && Math.max(...timesteps) > 970)
})

test('an update over several batches averages their means, and no two of its samples share noise', async (t) => {
  const { trainer, session, events } = await setUp(t, { steps: 1, batchSize: 1, gradientAccumulation: 3, learningRate: 0.5 })
  await trainer.train()
  assert.equal(session.steps.length, 3)
  assert.equal(new Set(session.steps.map(({ noise }) => noise![0])).size, 3)
  // Mean gradient of (w − x)² at w = 0 over x = 1, 2, 3 is −4; at rate 0.5 it leads to 2.
  assert.ok(Math.abs(session.read('weights')[0]! - 2) < 1e-6)
  const [event] = stepsOf(events)
  assert.ok(Math.abs(event!.loss - (1 + 4 + 9) / 3) < 1e-6)
  assert.ok(Math.abs(event!.gradNorm - 4) < 1e-6)
})

test('events tell step, epoch, rate, average loss of an epoch, and end with the last step', async (t) => {
  const { trainer, events } = await setUp(t, { epochs: 2, lrScheduler: 'cosine', lrWarmupSteps: 2 })
  const finished = await trainer.train()
  const steps = stepsOf(events)
  assert.deepEqual(
    steps.map(({ step, steps, epoch }) => [step, steps, epoch]),
    [1, 2, 3, 4, 5, 6].map((step) => [step, 6, step <= 3 ? 1 : 2]),
  )
  assert.deepEqual(
    steps.slice(0, 3).map(({ learningRate }) => learningRate),
    [0, 0.05, 0.1],
  )
  const losses = steps.map(({ loss }) => loss)
  assert.ok(Math.abs(steps[4]!.averageLoss - (losses[2]! + losses[3]! + losses[4]!) / 3) < 1e-12)
  assert.ok(steps.every(({ memoryBytes, stepsPerSecond }) => memoryBytes > 1e6 && stepsPerSecond > 0))
  assert.equal(steps[5]!.etaSeconds, 0)
  assert.equal(finished.loss, losses[5])
})

test("files have kohya's names, and of a run's states the newest two stay", async (t) => {
  const { trainer, events, output, read } = await setUp(t, { steps: 9, saveEvery: 4, saveEveryEpochs: 1 })
  await trainer.train()
  const loras = ['fake', 'fake-000001', 'fake-000002', 'fake-step00000004', 'fake-step00000008']
  const states = ['fake.state', 'fake-step00000008.state']
  assert.deepEqual((await readdir(output)).sort(), [...loras.map((name) => `${name}.safetensors`), ...states].sort())
  assert.deepEqual(
    events.flatMap((event) => (event.type === 'checkpoint' ? [event.step] : [])),
    [3, 4, 6, 8],
  )
  assert.equal((await read(join(output, 'fake.state'))).step, 9)
})

for (const [what, fails] of [
  ['loss', { loss: 4 }],
  ['gradient', { gradient: 4 }],
] as const) {
  test(`a ${what} that is not finite stops the training, the step before it saved`, async (t) => {
    const { trainer, session, output, events, read } = await setUp(t, { steps: 9 })
    session.fails = fails
    await assert.rejects(trainer.train(), (error: Error & { code?: string }) => {
      assert.equal(error.code, 'NAN_LOSS')
      assert.match(
        error.message,
        /^Expected a finite loss at step 4 but received .*; step 3 is saved in .*fake-step00000003\.safetensors\./,
      )
      return true
    })
    assert.deepEqual(await readdir(output), ['fake-step00000003.safetensors', 'fake-step00000003.state'])
    const state = await read(join(output, 'fake-step00000003.state'))
    assert.equal(state.step, 3)
    assert.ok(state.buffers.weights!.every(Number.isFinite) && state.buffers.weights![0] !== 0)
    assert.equal(events.at(-1)?.type, 'checkpoint')
  })
}

test('on a gpu in fp16, gradients that overflow halve the loss scale and their update is left out', async (t) => {
  const options = { steps: 6, lrWarmupSteps: 5 }
  const plain = await setUp(t, options)
  await plain.trainer.train()
  const { trainer, session, output, events, read } = await setUp(t, options, {}, 'cuda')
  session.largest = 2 ** 14
  await trainer.train()
  const overflowed = stepsOf(events).map(({ gradNorm }) => gradNorm === Infinity)
  const left = overflowed.filter(Boolean).length
  assert.ok(left > 0 && left < 6, `${left} updates were left out`)
  for (const [i, { lossScale }] of session.updates.entries()) {
    assert.equal(lossScale, 2 ** (16 - overflowed.slice(0, i).filter(Boolean).length))
  }
  assert.equal(
    session.updates.at(-1)?.step,
    6 - overflowed.slice(0, 5).filter(Boolean).length,
    'the bias correction counts updates that were made',
  )
  for (const { step, groups } of session.updates) assert.deepEqual(groups, plain.session.updates[step - 1]!.groups, 'so does the schedule')
  const saved = await read(join(output, 'fake.state'))
  assert.deepEqual(saved.lossScale, { value: 2 ** (16 - left), growing: 5 - overflowed.lastIndexOf(true), skipped: left })
  assert.ok(plain.session.updates.every(({ lossScale }) => lossScale === 1))
  assert.ok(session.read('gradients').every((gradient) => gradient === 0))
})

test('no memory on the gpu ends the training with the step before it saved', async (t) => {
  const { trainer, session, read } = await setUp(t, { steps: 9 }, {}, 'cuda')
  session.starves = 4
  // What saving needs was allocated before.
  session.full = true
  let path = ''
  await assert.rejects(trainer.train(), (error: Error & { code?: string }) => {
    assert.equal(error.code, 'OUT_OF_MEMORY')
    path = /^Expected 9 bytes .*; step 3 is saved in (.*fake-step00000003)\.safetensors$/.exec(error.message)?.[1] ?? ''
    return path !== ''
  })
  assert.equal((await read(`${path}.state`)).step, 3)
})

test('no memory for an array of JavaScript ends the training with what is done saved', async (t) => {
  const { trainer, session, output, read } = await setUp(t, { steps: 9 })
  const load = session.load.bind(session)
  let loads = 0
  session.load = async (inputs) => {
    if (++loads === 5) throw new RangeError('Array buffer allocation failed')
    return load(inputs)
  }
  // The step during which the batch was to be loaded is done, and counts.
  await assert.rejects(trainer.train(), { code: 'OUT_OF_MEMORY', message: /^Expected memory for an array .*; step 4 is saved in / })
  assert.deepEqual([session.updates.length, (await read(join(output, 'fake-step00000004.state'))).step], [4, 4])
})

test('a loss that is not finite at once leaves nothing', async (t) => {
  const { trainer, session, output } = await setUp(t, { steps: 9 })
  session.fails = { loss: 1 }
  await assert.rejects(trainer.train(), {
    code: 'NAN_LOSS',
    message: /^Expected a finite loss at step 1 but received a loss of NaN\. Lower/,
  })
  assert.deepEqual(await readdir(output), [])
})

test('an abort saves the current step once, says so and rejects', async (t) => {
  for (const saveEvery of [0, 3]) {
    const controller = new AbortController()
    const onEvent = (event: TrainEvent) => {
      if (event.type === 'step' && event.step === 3) controller.abort('enough')
    }
    const { trainer, events, read } = await setUp(t, { steps: 9, saveEvery }, { signal: controller.signal, onEvent })
    await assert.rejects(trainer.train(), { name: 'AbortError', code: 'ABORTED', cause: 'enough' })
    const saved = events.flatMap((event) => (event.type === 'checkpoint' ? [event] : []))
    assert.equal(saved.length, 1)
    assert.match(saved[0]!.path, /fake-step00000003\.safetensors$/)
    assert.equal((await read(saved[0]!.statePath)).step, 3)
    assert.equal(stepsOf(events).length, 3)
  }
})
