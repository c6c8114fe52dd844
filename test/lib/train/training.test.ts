import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import sharp from 'sharp'
import { LorafuseError } from '../../../lib/errors.js'
import type { TrainEvent } from '../../../lib/events.js'
import { hashFiles } from '../../../lib/files/hashes.js'
import { readHeader } from '../../../lib/files/safetensors.js'
import type { Model } from '../../../lib/models/model.js'
import type { Layer } from '../../../lib/native.js'
import { kebab, type Label, resolveTrainOptions, type TrainOptions } from '../../../lib/options/resolve.js'
import { normal } from '../../../lib/random.js'
import { runTraining, Training } from '../../../lib/train/run.js'
import { FakeSession, layer } from '../../fixtures/fake-session.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** A folder of images of these sizes, each with a caption, and options that train on it. */
async function place(t: TestContext, sizes: [number, number][]): Promise<TrainOptions & { output: string }> {
  const images = await temporaryFolder(t)
  for (const [i, [width, height]] of sizes.entries()) {
    await sharp({ create: { width, height, channels: 3, background: 'red' } }).toFile(join(images, `${i}.png`))
    await writeFile(join(images, `${i}.txt`), `image ${i}`)
  }
  const folder = await temporaryFolder(t)
  return { model: tiny, images, output: join(folder, 'out'), device: 'cpu', resolution: 128, rank: 1, saveEvery: 0, steps: 2 }
}

/** Writes an image of 128 × 128 pixels whose header is whole and whose last rows are missing. */
async function writeDamaged(path: string): Promise<void> {
  const noise = normal({ seed: 1, stream: 'noise' }, 128 * 128 * 3).map((value) => 128 + 50 * value)
  const png = await sharp(Uint8Array.from(noise), { raw: { width: 128, height: 128, channels: 3 } })
    .png()
    .toBuffer()
  await writeFile(path, png.subarray(0, png.length / 2))
}

/** Trains on a fake session, which `change` may alter. */
async function run(given: TrainOptions, change: (session: FakeSession, model: Model) => void = () => {}, layers?: Layer[], label?: Label) {
  const session = new FakeSession(layers)
  const events: TrainEvent[] = []
  const training = new Training(resolveTrainOptions(given), { onEvent: (event) => events.push(event) }, label, (model) => {
    change(session, model)
    return session
  })
  const failed = await training.train().then(
    () => undefined,
    (error: Error & { code: string }) => error,
  )
  assert.ok(session.disposed, failed?.message)
  return { session, events, failed }
}

const briefly = (events: TrainEvent[]) =>
  events.map((event) => (event.type === 'cache' ? `${event.kind} ${event.done}/${event.total}` : event.type))
const once = (calls: string[]) => calls.filter((call, i) => call !== calls[i - 1])

test('memory is planned before anything is cached, and the first batch prepared before the first step', async (t) => {
  const given = await place(t, [
    [128, 128],
    [192, 64],
  ])
  const { session, events, failed } = await run({ ...given, bucketMin: 64 })
  assert.equal(failed, undefined)
  assert.deepEqual(
    once(session.calls).map((call) => call.replace(/^plan .*/, 'plan')),
    [
      ...['attach', 'planStep', 'plan', 'planStep', 'plan', 'plan', 'planStep'],
      ...['text_encoder.encode', 'vae.encode', 'prepare', 'load', 'step', 'load', 'step'],
    ],
  )
  const cached = ['text 0/2', 'text 1/2', 'text 2/2', 'latents 0/2', 'latents 1/2', 'latents 2/2']
  assert.deepEqual(briefly(events), ['memory', ...cached, 'start', 'step', 'step', 'done'])
  const start = events.find((event) => event.type === 'start')
  const host = 4 * (16 * 16 * 4 + 8 * 24 * 4 + 2 * (77 + 77 * 128)) + 4 * 3 * 5 + 2 * 5 + 2 * 3
  assert.deepEqual(start, {
    ...{ type: 'start', model: 'SD 1.x, ε-prediction, found by scheduler/scheduler_config.json' },
    buckets: [
      { width: 128, height: 128, images: 1 },
      { width: 192, height: 64, images: 1 },
    ],
    ...{ steps: 2, images: 2, modules: 1, parameters: 5, resumedFrom: 0, seed: 0 },
    // The square has the most latents, 16 × 16 × 4; those and the tokens and states of two captions are held, what saving needs, and two programs.
    memory: { weights: 100, adapters: 10, mapped: 0, program: 3, activations: 1024, workspace: 1, host, total: 1135 + host },
    ...{ gradientCheckpointing: false, memoryOtherwise: 1135 + host },
  })
  const { memory, gradientCheckpointing, memoryOtherwise } = start!
  assert.deepEqual(events[0], { type: 'memory', device: 'cpu', precision: 'f32', memory, gradientCheckpointing, memoryOtherwise })
})

const MIB = 2 ** 20

test('a training that does not fit on the gpu is refused before it caches, with what would', async (t) => {
  const given: TrainOptions = {
    ...(await place(t, [
      [128, 128],
      [128, 128],
      [128, 128],
      [128, 128],
    ])),
    batchSize: 4,
    bucketMin: 64,
  }
  const refusal = async (change: Partial<TrainOptions>, available: number, prepare?: (session: FakeSession) => void) => {
    const { session, events, failed } = await run({ ...given, device: 'cuda', ...change }, (session) => {
      session.bytesPerLatent = MIB / 1024
      session.available = available
      prepare?.(session)
    })
    assert.equal(failed?.code, 'OUT_OF_MEMORY')
    assert.deepEqual(briefly(events), [])
    assert.ok(!session.calls.includes('text_encoder.encode'))
    return failed.message
  }
  // A square of 128 pixels takes a MiB.
  const beginning = 'Expected 5 MiB of free memory on the GPU for this training but received'
  assert.equal(await refusal({ precision: 'fp16' }, 3.5 * MIB), `${beginning} 3 MiB; batchSize 3 would fit`)
  assert.equal(await refusal({ precision: 'f32' }, 1.5 * MIB), `${beginning} 1 MiB; batchSize 1 would fit, or try precision fp16`)
  assert.equal(await refusal({}, MIB / 2), `${beginning} 0 MiB; resolution 64 with batchSize 1 would fit`)
  assert.equal(await refusal({}, 1000), `${beginning} 0 MiB; no batchSize or resolution would fit`)
  const saving = (session: FakeSession) => (session.bytesRecomputed = MIB / 4096)
  assert.equal(await refusal({}, 2 * MIB, saving), `${beginning} 2 MiB; gradientCheckpointing would fit`)
  assert.equal(await refusal({}, 0.8 * MIB, saving), `${beginning} 0 MiB; batchSize 3 with gradientCheckpointing would fit`)
  const alone = 'resolution 64 with batchSize 1 and gradientCheckpointing would fit'
  assert.equal(await refusal({}, MIB / 8, saving), `${beginning} 0 MiB; ${alone}`)
  assert.deepEqual(await readdir(given.output!).catch(() => []), [])
  // 32 pixels would fit, but the option begins at 64.
  assert.equal(await refusal({ bucketMin: 8, bucketStep: 32 }, MIB / 8), `${beginning} 0 MiB; no batchSize or resolution would fit`)
})

test('a refusal names options as the caller does', async (t) => {
  const label = (name: string) => `--${kebab(name)}`
  const given = await place(t, [[128, 128]])
  const starve = (session: FakeSession) => {
    session.bytesPerLatent = MIB / 1024
    session.available = 1000
  }
  const { failed } = await run({ ...given, device: 'cuda', batchSize: 2 }, starve, undefined, label)
  assert.match(failed!.message, /; no --batch-size or --resolution would fit$/)
  const options = resolveTrainOptions({ ...given, bucketStep: 8 })
  await assert.rejects(runTraining(options, {}, label), { code: 'OPTION_INVALID', message: /for --bucket-step with this model/ })
})

test('what is planned for the CPU is compared with what the system has', async (t) => {
  const given = await place(t, [[128, 128]])
  const { failed } = await run(given, (session) => (session.bytesPerLatent = 2 ** 50))
  assert.equal(failed?.code, 'OUT_OF_MEMORY')
  assert.match(failed.message, /^Expected \d+ MiB of free memory for this training but received \d+ MiB; no batchSize or resolution/)
})

test('an image that turns out damaged is skipped with a warning, and the training is that of a folder without it', async (t) => {
  const given = await place(t, [
    [128, 128],
    [128, 128],
    [128, 128],
  ])
  const damaged = join(given.images, '0.png')
  await writeDamaged(damaged)
  const { session, events } = await run({ ...given, steps: 4, flip: true, batchSize: 2 })
  const types = briefly(events)
  // Of all damaged images together, so after the last.
  assert.ok(types.indexOf('warning') > types.indexOf('latents 4/6') && types.indexOf('warning') < types.indexOf('start'), types.join())
  const warning = events.find((event) => event.type === 'warning')
  assert.deepEqual([warning!.code, warning!.path], ['IMAGE_UNREADABLE', damaged])
  assert.match(warning!.message, /; it is skipped$/)
  const images = await temporaryFolder(t)
  for (const name of ['1.png', '1.txt', '2.png', '2.txt']) await writeFile(join(images, name), await readFile(join(given.images, name)))
  const without = await run({ ...given, images, output: `${given.output}-2`, steps: 4, flip: true, batchSize: 2 })
  assert.deepEqual(session.steps, without.session.steps)
  const start = events.find((event) => event.type === 'start')
  assert.equal(start!.images, 2)

  const strict = await run({ ...given, strict: true, output: `${given.output}-3` })
  assert.equal(strict.failed?.code, 'DATASET_NOT_CLEAN')
  assert.ok(!strict.session.calls.includes('vae.encode'))
})

test('where all images turn out damaged, no folder stays behind; one that was there does', async (t) => {
  const given = await place(t, [
    [128, 128],
    [128, 128],
  ])
  for (const name of ['0.png', '1.png']) await writeDamaged(join(given.images, name))
  const output = join(given.output, 'deep')
  for (const strict of [false, true]) {
    const { failed } = await run({ ...given, output, strict })
    assert.equal(failed?.code, strict ? 'DATASET_NOT_CLEAN' : 'NO_IMAGES')
    assert.match(failed.message, /0\.png.*\n.*1\.png/)
    await assert.rejects(stat(given.output), { code: 'ENOENT' })
  }
  await mkdir(given.output)
  await run({ ...given, output })
  assert.deepEqual(await readdir(given.output), [])
})

test('warnings of captions count the images that train', async (t) => {
  const given = await place(t, [
    [128, 128],
    [128, 128],
    [128, 128],
    [128, 128],
  ])
  await writeDamaged(join(given.images, '0.png'))
  for (const name of ['0.txt', '1.txt']) await rm(join(given.images, name))
  await writeFile(join(given.images, '2.txt'), `first\nsecond`)
  await writeFile(join(given.images, '3.txt'), 'cat '.repeat(80))
  const { events } = await run(given)
  const warnings = events.flatMap((event) => (event.type === 'warning' ? [`${event.code} ${event.message.replace(/ images .*/, '')}`] : []))
  assert.deepEqual(warnings.slice(1), ['NO_CAPTION 1 of 3', 'CAPTION_LINES 1 of 3', 'CAPTION_TOO_LONG 1 of 3'])
})

test('a state is checked before anything is cached', async (t) => {
  const given = await place(t, [
    [128, 128],
    [128, 128],
  ])
  await run(given)
  const refuse = async (change: Partial<TrainOptions>, message: RegExp) => {
    const { failed, events } = await run({ ...given, resume: true, ...change })
    assert.equal(failed?.code, 'STATE_MISMATCH')
    assert.match(failed.message, message)
    assert.deepEqual(briefly(events), [])
  }
  await refuse({ seed: 1 }, /seed 0 instead of 1/)
  await refuse({ steps: 1 }, /at most 1 step but received one of 2; raise steps/)
  const longer = await run({ ...given, resume: true, steps: 3 })
  assert.equal(longer.failed, undefined)
  assert.equal(longer.session.steps.length, 1)
  await writeFile(join(given.images, '0.txt'), 'another caption')
  await refuse({ steps: 4 }, /of other images or captions/)
  await writeFile(join(given.images, '0.txt'), 'image 0')
  // An image damaged since is found when it is cached.
  await writeDamaged(join(given.images, '1.png'))
  assert.equal((await run({ ...given, resume: true, steps: 4 })).failed?.code, 'STATE_MISMATCH')
})

test('a run whose damaged images were skipped is resumed without them', async (t) => {
  const given = await place(t, [
    [128, 128],
    [128, 128],
  ])
  await writeDamaged(join(given.images, '1.png'))
  await run(given)
  const resumed = await run({ ...given, resume: true, steps: 3 })
  assert.equal(resumed.failed, undefined)
  assert.equal(resumed.session.steps.length, 1)
  await writeFile(join(given.images, '0.txt'), 'another caption')
  const { failed, events } = await run({ ...given, resume: true, steps: 4 })
  assert.equal(failed?.code, 'STATE_MISMATCH')
  assert.deepEqual(briefly(events), [])
})

test('the UNet is hashed beside the caching, and a failure of it ends the training before the first step', async (t) => {
  const given = await place(t, [[128, 128]])
  let before: string[] = []
  const { events } = await run(given, (session, model) => {
    const { hash } = model
    model.hash = (signal) => {
      before = [...session.calls]
      return hash(signal)
    }
  })
  assert.ok(!before.includes('vae.encode'))
  assert.equal(events.at(-1)?.type, 'done')
  const { metadata } = await readHeader(join(given.output, 'lora.safetensors'))
  assert.match(metadata.ss_new_sd_model_hash!, /^[0-9a-f]{64}$/)
  const gone = await run({ ...given, output: `${given.output}-2` }, (_, model) => {
    model.hash = () => hashFiles(['/nowhere/model.safetensors'])
  })
  assert.equal(gone.failed?.code, 'FILE_NOT_FOUND')
  assert.ok(!gone.session.calls.includes('prepare'))
})

test('a training that fails while it caches stops the hashing', async (t) => {
  const given = await place(t, [[128, 128]])
  let hashing: AbortSignal | undefined
  const { failed } = await run(given, (session, model) => {
    model.hash = (signal) => {
      hashing = signal
      return new Promise(() => {})
    }
    session.run = () => Promise.reject(new LorafuseError('OUT_OF_MEMORY', 'Expected memory'))
  })
  assert.equal(failed?.code, 'OUT_OF_MEMORY')
  assert.equal(hashing?.aborted, true)
})

test('layers outside the transformers carry no adapter', async (t) => {
  const given = await place(t, [[128, 128]])
  const { events } = await run(given, undefined, [{ ...layer, path: 'time_embedding.linear_1' }, layer])
  const start = events.find((event) => event.type === 'start')
  assert.deepEqual([start!.modules, start!.parameters], [1, 5])
})
