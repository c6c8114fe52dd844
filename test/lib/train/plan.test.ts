import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import sharp from 'sharp'
import type { StartEvent, TrainEvent } from '../../../lib/events.js'
import { readModel } from '../../../lib/models/read.js'
import { native, type Speeds } from '../../../lib/native.js'
import { findCard, freeBytes } from '../../../lib/options/cards.js'
import { memorySvg } from '../../../lib/train/memory-picture.js'
import { plan, secondsOf } from '../../../lib/train/plan.js'
import { fullSizeModel } from '../../fixtures/full-size.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { place, run, tensors } from '../../fixtures/training.js'
import { built, root } from '../../gpu/emulated.js'

// Measured once: it keeps the processor busy for a second, and every plan asks.
const addon = native()
let measured: Promise<Speeds> | undefined
addon.Session = class extends addon.Session {
  override speeds(): Promise<Speeds> {
    measured ??= super.speeds()
    return measured
  }
}

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)

test('an op takes as long as its operations or its bytes, whichever is longer, at the speed of its kind', () => {
  const speeds: Speeds = { bytes: 10, flops: { mat_mul: 100, conv2d: 50, attention: 20, attention_grad: 40 } }
  const seconds = (op: string, flops: number, bytes: number) =>
    secondsOf({ nodes: [{ op, layer: '', flops, bytes, alive: 0, shape: [] }] }, speeds)
  assert.equal(seconds('mat_mul', 100, 5), 1)
  assert.equal(seconds('weight_grad', 100, 5), 1)
  assert.equal(seconds('conv_transpose2d', 100, 5), 2)
  assert.equal(seconds('attention', 100, 5), 5)
  assert.equal(seconds('attention_grad', 100, 5), 2.5)
  assert.equal(seconds('add', 0, 5), 0.5)
})

test('what is planned is what a training plans, for a folder or a number of images', async (t) => {
  const { folder, ...given } = { ...(await place(t)), device: 'cpu' as const, rank: 4, steps: 1 }
  const { images: _, ...rest } = given
  let memory: { total: number; weights: number; activations: number; adapters: number } | undefined
  await run({ folder, ...given }, (event: TrainEvent) => {
    if (event.type === 'start') memory = event.memory
  })
  const planned = await plan(given)
  const { bytes, timeline, largest } = planned
  assert.equal(bytes.total, memory!.total)
  assert.deepEqual([bytes.weights, bytes.activations], [memory!.weights, memory!.activations])
  assert.equal(bytes.adapters + bytes.gradients + bytes.optimizer, memory!.adapters)
  const kinds = ['weights', 'adapters', 'gradients', 'optimizer', 'activations', 'workspace', 'caches', 'programs', 'saving'] as const
  assert.equal(sum(kinds.map((kind) => bytes[kind])), bytes.total)
  assert.ok(planned.fits && planned.steps === 1 && bytes.process > bytes.total)
  assert.ok(planned.secondsPerStep > 0 && planned.seconds === planned.secondsPerStep)
  assert.ok(planned.flops > 1e6 && planned.traffic > 1e6)
  assert.ok(largest.length === 10 && largest.every(({ bytes }, i) => i === 0 || bytes <= largest[i - 1]!.bytes))
  assert.ok(Math.max(...timeline) <= bytes.activations + bytes.workspace && timeline.every((alive) => alive > 0))
  const imagined = await plan({ ...rest, imageCount: planned.images })
  assert.equal(imagined.images, planned.images)
  assert.equal(imagined.bytes.adapters, bytes.adapters)
  const recomputed = await plan({ ...rest, imageCount: 1, gradientCheckpointing: true })
  assert.ok(recomputed.bytes.activations < bytes.activations && recomputed.flops > planned.flops)
})

test('images or their number are needed, not both', async (t) => {
  const { folder: _, images, ...rest } = await place(t)
  await assert.rejects(plan(rest), { code: 'OPTION_REQUIRED', message: 'Expected images or imageCount but received neither' })
  await assert.rejects(plan({ ...rest, images, imageCount: 3 }), {
    code: 'OPTION_INVALID',
    message: 'Expected images or imageCount but received both',
  })
})

/** Of what plans for a GPU. */
const skip = existsSync(built('liblorafuse_cuda.so')) ? false : 'this build has no CUDA backend'

test('a plan for a named card needs no GPU, goes by its memory and its specified speed, and says what would fit', {
  skip,
}, async () => {
  const given = { model: tiny, imageCount: 2, steps: 1, rank: 4 }
  const planned = await plan({ ...given, gpu: 'rtx 2080ti' })
  const { bytes } = planned
  const card = findCard('RTX 2080 Ti')!
  assert.deepEqual(planned.gpu, { name: 'RTX 2080 Ti', memory: 11 * 2 ** 30, free: freeBytes(card) })
  assert.deepEqual([planned.device, planned.precision, planned.fits, planned.shortage], ['cuda', 'fp16', true, undefined])
  const kinds = ['weights', 'adapters', 'gradients', 'optimizer', 'activations', 'workspace'] as const
  assert.equal(sum(kinds.map((kind) => bytes[kind])), bytes.total)
  assert.ok(bytes.mapped === 0 && bytes.process > bytes.caches + bytes.saving)
  const seconds = Math.max(planned.flops / card.tensor, planned.traffic / card.bandwidth)
  assert.ok(
    planned.secondsPerStep > seconds && planned.secondsPerStep < 20 * seconds + 0.01,
    `${planned.secondsPerStep} s, ${seconds} at the peaks`,
  )
  const f32 = await plan({ ...given, gpu: 'RTX 2080 Ti', precision: 'f32' })
  assert.ok(f32.secondsPerStep > planned.secondsPerStep && f32.bytes.weights > 1.9 * bytes.weights)
  const much = await plan({ ...given, imageCount: 512, gpu: 'GTX 1660', batchSize: 512, resolution: 1024 })
  assert.ok(!much.fits && much.bytes.total > freeBytes(findCard('GTX 1660')!) && /tensor cores/.test(much.gpu!.note!))
  assert.match(
    much.shortage!,
    /^Expected \d+ MiB of free memory on the GPU for this training but received 5542 MiB; (batchSize \d+|gradientCheckpointing) /,
  )
  await assert.rejects(plan({ ...given, gpu: 'T4', precision: 'bf16' }), { code: 'PRECISION_UNSUPPORTED' })
  assert.equal((await plan({ ...given, gpu: 'RTX 3060', precision: 'bf16' })).precision, 'bf16')
})

test("a step of SD1.5 on an RTX 2080 Ti is planned as docs/gpu.md counts it, and takes the page's cautious time", {
  skip,
}, async (t) => {
  const page = await readFile(join(root, 'docs/gpu.md'), 'utf8')
  const [, caution, mib] = /^\| all 192 layers \|[^|]*\|[^|]*\| \*\*([\d.]+)\*\* \| \*\*(\d+)\*\* \|/m.exec(page) ?? []
  const model = await fullSizeModel(await temporaryFolder(t), 'sd1')
  const { bytes, secondsPerStep } = await plan({ model, imageCount: 1, gpu: 'RTX 2080 Ti' })
  const milliseconds = 1000 * secondsPerStep
  assert.ok(Math.abs(milliseconds / Number(caution) - 1) < 0.05, `${milliseconds} ms instead of ${caution}`)
  // The page leaves out a step's inputs and results.
  const more = bytes.total / 2 ** 20 - Number(mib)
  assert.ok(more > -1 && more < 2, `${more} MiB more than ${mib}`)
})

test('a session for a GPU that need not be there runs nothing', { skip }, async (t) => {
  const { networks } = await readModel(tiny)
  const gpu = { computeCapability: 86, multiprocessors: 28, bytes: 2 ** 30 }
  const session = new addon.Session({ device: 'cuda', gpu, threads: 1, precision: 'fp16', networks })
  t.after(() => session.dispose())
  const pixels = { shape: [1, 16, 16, 3], data: new Float32Array(768) }
  assert.ok(session.planRun('vae', 'encode', { pixels: pixels.shape }).total > 0)
  await assert.rejects(session.run('vae', 'encode', { pixels }), { code: 'GPU_PLANNED' })
  for (const odd of [{ multiprocessors: 0 }, { computeCapability: 60 }, { bytes: -1 }])
    assert.throws(() => new addon.Session({ device: 'cuda', gpu: { ...gpu, ...odd }, threads: 1, precision: 'fp16', networks }), {
      code: 'ARGUMENT_INVALID',
    })
})

test('within `fit` as little is computed again as that takes, to the same bits', async (t) => {
  const { folder, ...given } = { ...(await place(t)), device: 'cpu' as const, resolution: 256, bucketMin: 64, steps: 1 }
  const [kept, all] = [await plan(given), await plan({ ...given, gradientCheckpointing: true })]
  const besides = kept.bytes.process - kept.bytes.total
  const within = async (bytes: number) => plan({ ...given, fit: bytes + besides })
  const roomy = await within(kept.bytes.total)
  assert.deepEqual([roomy.recomputed, roomy.bytes, roomy.flops], [0, kept.bytes, kept.flops])
  const budget = Math.ceil((kept.bytes.total + 2 * all.bytes.total) / 3)
  const tight = await within(budget)
  assert.ok(tight.recomputed! > 0 && tight.bytes.total <= budget, `${tight.recomputed} parts, ${tight.bytes.total} of ${budget} bytes`)
  assert.ok(tight.flops > kept.flops && tight.flops < all.flops)
  await assert.rejects(within(all.bytes.total / 2), {
    code: 'OUT_OF_MEMORY',
    message: /^Expected at least \d+ MiB for fit but received \d+ MiB; lower resolution or batchSize$/,
  })
  await assert.rejects(plan({ ...given, fit: 'auto', gradientCheckpointing: true }), {
    code: 'OPTION_INVALID',
    message: 'Expected fit or gradientCheckpointing but received both',
  })
  let start: StartEvent | undefined
  const trained = async (name: string, fit?: number) => {
    const { path } = await run({ folder, ...given, name, ...(fit !== undefined && { fit }) }, (event) => {
      if (event.type === 'start') start = event
    })
    return tensors(path)
  }
  const before = await trained('kept')
  assert.deepEqual(await trained('fitted', budget + besides), before)
  assert.deepEqual([start!.recomputed, start!.memory.total], [tight.recomputed, tight.bytes.total])
  assert.equal(start!.memoryOtherwise, kept.bytes.total)
})

test('the picture of a plan names its axes, its kinds of memory, the peak and the layer of the largest value', async (t) => {
  const { folder: _, images: __, ...rest } = await place(t)
  const planned = await plan({ ...rest, device: 'cpu', imageCount: 1 })
  assert.ok(planned.forward > 1 && planned.forward < planned.timeline.length)
  const svg = await memorySvg(planned)
  assert.deepEqual((await sharp(Buffer.from(svg)).metadata()).format, 'svg')
  for (const text of ['memory (MiB)', 'op of the step', 'weights (', 'activations (', 'peak ', planned.largest[0]!.layer]) {
    assert.ok(svg.includes(text), text)
  }
})
