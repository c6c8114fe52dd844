import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, renameSync, truncateSync, writeFileSync } from 'node:fs'
import { cp, mkdir, readdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { readAdapters } from '../../../lib/adapters/files.js'
import { lora as kind } from '../../../lib/adapters/lora.js'
import { Pipeline } from '../../../lib/draw/pipeline.js'
import type { StartEvent, TrainEvent } from '../../../lib/events.js'
import { readHeader } from '../../../lib/files/safetensors.js'
import { loraPrefixes } from '../../../lib/models/model.js'
import { sd1 } from '../../../lib/models/sd1.js'
import type { Layer } from '../../../lib/native.js'
import type { TrainOptions } from '../../../lib/options/resolve.js'
import { train } from '../../../lib/train/run.js'
import { convolution, linear } from '../../fixtures/fake-session.js'
import { tiny } from '../../fixtures/lora.js'
import { alteredModel } from '../../fixtures/models.js'
import { assertWhole, files, place, run, runPath, tensors } from '../../fixtures/training.js'

test('a training tells what it caches, starts, steps and ends with, and leaves a LoRA that is read back', async (t) => {
  const given = await place(t)
  const events: TrainEvent[] = []
  const result = await run({ ...given, flip: true, saveEvery: 2 }, (event) => events.push(event))
  const types = events.map((event) => (event.type === 'cache' ? `${event.kind} ${event.done}/${event.total}` : event.type))
  const cached = ['text 0/2', 'text 1/2', 'text 2/2', ...[0, 1, 2, 3, 4].map((done) => `latents ${done}/4`)]
  assert.deepEqual(types, ['memory', ...cached, 'start', 'step', 'step', 'checkpoint', 'step', 'done'])
  assert.deepEqual(await files(given.output), [
    ...['lora-step00000002.safetensors', 'lora-step00000002.state', 'lora.safetensors', 'lora.state'],
  ])
  assert.deepEqual(
    [result.path, result.statePath, result.step],
    [...[join(given.output, 'lora.safetensors'), join(given.output, 'lora.state'), 3]],
  )
  const steps = events.flatMap((event) => (event.type === 'step' ? [event] : []))
  assert.equal(result.loss, steps.at(-1)?.loss)
  assert.ok(steps.every(({ loss, gradNorm }) => loss > 0 && loss < 2 && gradNorm > 0))

  const start = events.find((event) => event.type === 'start')!
  const { tensors: written, metadata } = await readHeader(result.path)
  assert.equal(written.length, 3 * start.modules)
  assert.equal(metadata.ss_num_train_images, '2')
  const layers = written.flatMap(({ name, shape }): Layer[] => {
    const path = name.replace(/\.lora_down\.weight$/, '')
    const up = written.find((other) => other.name === `${path}.lora_up.weight`)
    const layer = shape.length === 4 ? convolution : linear
    return path === name ? [] : [layer(path.replace('lora_unet_', ''), shape[1]!, up!.shape[0]!)]
  })
  const file = await readAdapters(kind, result.path, {
    layers: { unet: layers },
    prefixes: loraPrefixes(sd1, {}),
    baseModelVersion: 'sd_v1',
  })
  const lora = file.get('unet')!
  assert.equal(lora.size, start.modules)
  const parameters = [...lora.values()].reduce((sum, { down, up }) => sum + down.length + up.length, 0)
  assert.equal(parameters, start.parameters)
  assert.ok(
    [...lora.values()].every(({ up }) => up.some((value) => value !== 0)),
    'every adapter learns',
  )
})

test('convolutions train, and with blocks computed again to the same bits in less memory', async (t) => {
  const given = { ...(await place(t)), convRank: 2, convAlpha: 1, steps: 2 }
  const starts: StartEvent[] = []
  const onEvent = (event: TrainEvent) => void (event.type === 'start' && starts.push(event))
  const kept = await run(given, onEvent)
  const again = await run({ ...given, output: join(given.folder, 'again'), gradientCheckpointing: true }, onEvent)
  assert.deepEqual(await tensors(again.path), await tensors(kept.path))
  const kernels = (await tensors(kept.path)).filter(([name, { shape }]) => /_conv\d?\.lora_down/.test(name) && shape[2] === 3)
  assert.ok(kernels.length > 4)
  const [first, second] = starts.map(({ memory }) => memory.total)
  assert.ok(second! < first!)
  assert.deepEqual(
    starts.map(({ memoryOtherwise }) => memoryOtherwise),
    [second, first],
  )
  const pipeline = await Pipeline.open({ model: tiny, device: 'cpu', precision: 'f32', threads: 1 })
  try {
    await pipeline.apply([{ path: kept.path, te: 1, unet: 1 }])
  } finally {
    await pipeline[Symbol.asyncDispose]()
  }
})

test('one image is enough, and attention alone trains fewer layers', async (t) => {
  const given = await place(t, 1)
  const modules: number[] = []
  for (const targets of ['default', 'attention'] as const) {
    await run({ ...given, targets, batchSize: 4 }, (event) => event.type === 'start' && modules.push(event.modules))
  }
  assert.ok(modules[1]! > 0 && modules[1]! < modules[0]!)
})

test("kohya's folders: repeats make an epoch, a folder's name is the caption of images without one", async (t) => {
  const given = await place(t, 1)
  const images = join(given.folder, 'concepts')
  await cp(given.images, join(images, '2_fish'), { recursive: true })
  await mkdir(join(images, '3_blue bird'))
  const [picture] = (await readdir(given.images)).filter((name) => name.endsWith('.png'))
  await cp(join(given.images, picture!), join(images, '3_blue bird', 'x.png'))
  const epochs: number[] = []
  const { path, step } = await run(
    { ...given, steps: undefined, epochs: 2, images },
    (event) => event.type === 'step' && epochs.push(event.epoch),
  )
  assert.equal(step, 10)
  assert.deepEqual(epochs, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
  const { metadata } = await readHeader(path)
  assert.deepEqual(Object.keys(JSON.parse(metadata.ss_tag_frequency!)), ['2_fish', '3_blue bird'])
  assert.deepEqual(JSON.parse(metadata.ss_tag_frequency!)['3_blue bird'], { 'blue bird': 1 })
})

test('the seed decides, the number of threads does not', async (t) => {
  const given = await place(t)
  const results: unknown[] = []
  for (const change of [{ threads: 1 }, { threads: 2 }, { threads: 3, seed: 1 }]) {
    results.push(await tensors((await run({ ...given, ...change })).path))
  }
  assert.deepEqual(results[1], results[0])
  assert.notDeepEqual(results[2], results[0])
})

test('abortion at any event rejects with an AbortError and leaves whole files or none', async (t) => {
  const given = { ...(await place(t)), saveEvery: 2 }
  let events = 0
  await run(given, () => void events++)
  for (let stop = 0; stop < events - 1; stop++) {
    const controller = new AbortController()
    const output = `${given.output}-${stop}`
    let seen = 0
    let steps = 0
    const onEvent = (event: TrainEvent) => {
      if (event.type === 'step') steps = event.step
      if (seen++ === stop) controller.abort(new Error('enough'))
    }
    await assert.rejects(run({ ...given, output }, onEvent, controller.signal), (error: Error) => {
      assert.equal(error.name, 'AbortError')
      assert.equal((error.cause as Error).message, 'enough')
      return true
    })
    await assertWhole(output)
    assert.equal((await files(output)).length > 0, steps > 0)
  }
})

test('aborted before it begins, a training does nothing', async (t) => {
  const given = await place(t)
  await assert.rejects(run(given, undefined, AbortSignal.abort()), { name: 'AbortError', code: 'ABORTED' })
  assert.deepEqual(await files(given.output), [])
})

test('an error of the listener ends the training and comes back', async (t) => {
  const given = await place(t)
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'step') throw new RangeError('mine')
  }
  await assert.rejects(run(given, onEvent), RangeError)
})

test('a promise of the listener that rejects ends the training and comes back, at whatever event', async (t) => {
  const given = await place(t)
  for (const type of ['cache', 'step', 'done'] as const) {
    const onEvent = async (event: TrainEvent) => {
      await setTimeout(event.type === 'done' ? 20 : 0)
      if (event.type === type) throw new RangeError('mine')
    }
    await assert.rejects(run(given, onEvent), RangeError)
  }
})

test('who hears that a training is done may train again under its name, and the first waits for it', async (t) => {
  const given = await place(t, 1)
  const ends: number[] = []
  const onEvent = async (event: TrainEvent) => {
    if (event.type !== 'done') return
    ends.push((await run({ ...given, steps: 1 })).step)
  }
  const { step } = await run(given, onEvent)
  assert.deepEqual([...ends, step], [1, 3])
})

test('a listener that never ends can be stopped, and holds no name', async (t) => {
  const given = await place(t, 1)
  const controller = new AbortController()
  const onEvent = (event: TrainEvent) => {
    if (event.type !== 'done') return
    globalThis.setTimeout(() => controller.abort(), 20)
    return new Promise<void>(() => {})
  }
  await assert.rejects(run(given, onEvent, controller.signal), { name: 'AbortError' })
  assert.deepEqual(await files(given.output), ['lora.safetensors', 'lora.state'])
})

const bad: [string, Partial<TrainOptions>, string, RegExp][] = [
  ['a rank above a layer', { rank: 4000 }, 'RANK_TOO_LARGE', /Expected at most \d+ for rank, as \S+ is \d+ × \d+, but received 4000$/],
  ['rank 0', { rank: 0 }, 'OPTION_INVALID', /for rank but received 0$/],
  ['a layer of text beyond the first', { clipSkip: 40 }, 'OPTION_INVALID', /for clipSkip with this model but received 40$/],
  ['sides that the UNet cannot halve', { bucketStep: 8 }, 'OPTION_INVALID', /Expected a multiple of \d+ for bucketStep/],
  ['no images', { images: join(tiny, 'unet') }, 'NO_IMAGES', /^Expected at least one image/],
  ['no model', { model: 'nowhere' }, 'MODEL_NOT_FOUND', /^Expected a model folder/],
]

for (const [what, change, code, message] of bad) {
  test(`${what} is refused before anything is written`, async (t) => {
    const given = await place(t)
    await assert.rejects(run({ ...given, ...change }), { code, message })
    assert.deepEqual(await files(given.output), [])
  })
}

test('bad files among good ones are told and skipped', async (t) => {
  const given = await place(t)
  await writeFile(join(given.images, 'broken.png'), 'no image')
  await writeFile(join(given.images, 'empty.png'), '')
  await symlink('nowhere', join(given.images, 'gone.png'))
  const warned: unknown[] = []
  await run(given, (event) => event.type === 'warning' && warned.push(event.path))
  assert.deepEqual(
    warned,
    ['broken', 'empty', 'gone'].map((name) => join(given.images, `${name}.png`)),
  )
})

test('a model that gives no numbers stops at once, at which step', async (t) => {
  const given = await place(t)
  // Not a number in f16 and in f32 both.
  const model = await alteredModel(given.folder, Uint8Array.of(0xff, 0xff, 0xff, 0xff))
  await assert.rejects(run({ ...given, model }), { code: 'NAN_LOSS', message: /^Expected a finite loss at step 1 but received / })
  assert.deepEqual(await files(given.output), [])
})

test('a disk that fills up ends the training with one sentence; the older checkpoint stays whole', async (t) => {
  const { folder: _, ...options } = { ...(await place(t)), saveEvery: 1, savePrecision: 'fp16' as const }
  await train({ ...options, steps: 1 })
  const before = await tensors(join(options.output, 'lora.safetensors'))
  const code = `
    import(${JSON.stringify(runPath)}).then(({ train }) => train(${JSON.stringify({ ...options, resume: true, steps: 5 })}))
      .then(() => console.log('done'), (error) => console.log(error.code, error.message))`
  // Files may have 200 KiB: enough for a LoRA, not for its state.
  const child = spawn('bash', ['-c', `trap '' XFSZ; ulimit -f 200; exec "$0" -e "$1"`, process.execPath, code])
  let printed = ''
  child.stdout.on('data', (piece) => (printed += piece))
  await once(child, 'close')
  assert.match(printed, /^DISK_FULL Expected room for .*\.state but the disk is full/)
  await assertWhole(options.output)
  assert.deepEqual(await tensors(join(options.output, 'lora.safetensors')), before)
  assert.equal((await train({ ...options, resume: true, steps: 3 })).step, 3)
})

test('weights that are cut short during the training end it with one sentence, and save nothing of it', async (t) => {
  const given = await place(t)
  const model = join(given.folder, 'model')
  await cp(tiny, model, { recursive: true, dereference: true })
  const unet = join(model, 'unet/diffusion_pytorch_model.safetensors')
  const training = run({ ...given, model, steps: 50 }, (event) => {
    if (event.type === 'step' && event.step === 1) truncateSync(unet, 4096)
  })
  await assert.rejects(training, { code: 'WEIGHTS_TRUNCATED', message: new RegExp(`^Expected ${unet} to stay as it is during a run but`) })
  assert.equal(existsSync(given.output), false)
})

test('weights that are written to during the training are told once, others are no matter', async (t) => {
  const told = async (change: (unet: string, vae: string) => void) => {
    const given = await place(t)
    const model = join(given.folder, 'model')
    await cp(tiny, model, { recursive: true, dereference: true })
    const warnings: { code: string; path?: string }[] = []
    const unet = join(model, 'unet/diffusion_pytorch_model.safetensors')
    await run({ ...given, model, saveEvery: 1 }, (event) => {
      if (event.type === 'warning') warnings.push(event)
      if (event.type === 'step' && event.step === 1) change(unet, join(model, 'vae/diffusion_pytorch_model.safetensors'))
    })
    return { codes: warnings.map(({ code }) => code), paths: warnings.map(({ path }) => path), unet }
  }
  const { codes, paths, unet } = await told((unet) => appendFileSync(unet, 'x'))
  assert.deepEqual([codes, paths], [['WEIGHTS_CHANGED'], [unet]])
  assert.deepEqual((await told((_, vae) => appendFileSync(vae, 'x'))).codes, [])
  const replaced = await told((unet) => {
    writeFileSync(`${unet}.new`, 'x')
    renameSync(`${unet}.new`, unet)
  })
  assert.deepEqual(replaced.codes, [])
})
