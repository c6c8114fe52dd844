import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { scanDataset } from '../../../lib/data/dataset.js'
import { openSession } from '../../../lib/models/model.js'
import { readModel } from '../../../lib/models/read.js'
import { asIs, resolveTrainOptions } from '../../../lib/options/resolve.js'
import { cachedBytes, cacheLatents, cacheText, tokenizeCaptions } from '../../../lib/train/cache.js'
import { type Planned, planMemory } from '../../../lib/train/memory.js'
import { assignBuckets } from '../../../lib/train/training-images.js'
import { smallModel, writeFolder } from '../../fixtures/checkpoints.js'
import { copyImages } from '../../fixtures/images.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

/** Plans steps on images of these sizes, none of which is enlarged; `onPlan` is called with the shape of each step's latents. */
async function plan(sizes: [width: number, height: number, repeats?: number][], onPlan: (shape: number[]) => void, signal?: AbortSignal) {
  const none = { weights: 0, mapped: 0, program: 0, adapters: 0, activations: 0, workspace: 0 }
  const session = {
    planStep: ({ latents }: Record<string, number[]>) => {
      onPlan(latents!)
      return { ...none, total: latents!.reduce((product, length) => product * length, 1) }
    },
    planRun: () => ({ ...none, total: 0 }),
    fitStep: () => undefined,
    availableBytes: () => 2 ** 40,
  }
  const items = sizes.map(([width, height, repeats = 1], i) => ({ path: `${i}.png`, caption: '', repeats, width, height, folder: 'x' }))
  const options = resolveTrainOptions({ model: tiny, images: 'x', resolution: 256, batchSize: 2, bucketNoUpscale: true })
  const chosen = { device: 'cpu', precision: 'f32', threads: 1 } as const
  const planned: Planned = {
    session,
    model: await readModel(tiny),
    items,
    lastTextStep: 0,
    chosen,
    label: asIs,
    saving: 0,
    ...(signal && { signal }),
  }
  return planMemory(planned, options)
}

test('of the buckets only those are planned that no other covers in batch, width and height', async () => {
  const shapes: number[][] = []
  const { memory } = await plan(
    [
      [64, 64, 2],
      [128, 192],
      [192, 128],
      [64, 192],
      [128, 128],
      [192, 64, 2],
      [64, 128, 2],
    ],
    (shape) => shapes.push(shape.slice(0, 3)),
  )
  // Latents are an eighth of the pixels each way: [images, height, width]. The largest is planned once more, the blocks computed again.
  assert.deepEqual(shapes, [
    [2, 8, 24],
    [2, 16, 8],
    [1, 16, 24],
    [1, 24, 16],
    [2, 8, 24],
  ])
  assert.equal(memory.total, 24 * 16 * 4)
})

test('planning hears a signal between two buckets', async () => {
  const controller = new AbortController()
  let count = 0
  const slow = () => {
    count += 1
    // Heard only if the event loop has its turn.
    setImmediate(() => controller.abort(new Error('enough')))
    for (const began = performance.now(); performance.now() - began < 20; );
  }
  const sizes = Array.from({ length: 4 }, (_, i): [number, number] => [64 * (i + 1), 256 - 64 * i])
  await assert.rejects(plan(sizes, slow, controller.signal), /enough/)
  assert.equal(count, 1)
})

test('a step that encodes its text is planned with ids, and nothing for captions that are encoded ahead', async () => {
  const none = { weights: 0, mapped: 0, program: 0, adapters: 0, activations: 0, workspace: 0, total: 0 }
  const calls: unknown[] = []
  const session = {
    planStep: (shapes: Record<string, number[]>) => {
      calls.push(Object.entries(shapes).filter(([name]) => /text|context/.test(name)))
      return none
    },
    planRun: (network: string) => {
      calls.push(network)
      return none
    },
    fitStep: () => undefined,
    availableBytes: () => 1,
  }
  const items = [{ path: 'a.png', caption: '', repeats: 2, width: 64, height: 64, folder: 'x' }]
  const options = resolveTrainOptions({ model: tiny, images: 'x', resolution: 64, batchSize: 2, maxTokenLength: 150 })
  const chosen = { device: 'cpu', precision: 'f32', threads: 1 } as const
  const shared = { session, model: await readModel(tiny), items, chosen, label: asIs, saving: 0 }
  await planMemory({ ...shared, lastTextStep: Infinity }, options)
  const ids = [
    ['text_encoder.ids', [4, 77]],
    ['text_encoder.rows', [2, 152]],
  ]
  // Then the same step is planned with what it would take otherwise.
  assert.deepEqual(calls.splice(0).slice(0, 2), [ids, 'vae'])
  await planMemory({ ...shared, lastTextStep: 0 }, options)
  assert.deepEqual(calls.slice(0, 3), [[['context', [2, 152, shared.model.contextDim]]], 'vae', 'text_encoder'])
})

/** Counts the bytes of all arrays that a value holds, each once. */
function heldBytes(value: unknown, seen = new Set<unknown>()): number {
  if (typeof value !== 'object' || value === null || seen.has(value)) return 0
  seen.add(value)
  if (ArrayBuffer.isView(value)) return heldBytes(value.buffer, seen)
  if (value instanceof ArrayBuffer) return value.byteLength
  const inside = value instanceof Map ? [...value.values()] : Object.values(value)
  return inside.reduce((sum: number, each) => sum + heldBytes(each, seen), 0)
}

for (const family of ['sd1', 'sdxl'] as const) {
  test(`what is cached takes the bytes that are planned for it, ${family}`, async (t) => {
    const folder = await temporaryFolder(t)
    await writeFolder(join(folder, 'model'), smallModel(family))
    const model = await readModel(join(folder, 'model'))
    const given = { model: 'm', images: await copyImages(folder, 3), resolution: 96, bucketMin: 32, bucketStep: 32, flip: true }
    const options = resolveTrainOptions({ ...given, maxTokenLength: 225 })
    const { items } = await scanDataset(options)
    const images = await assignBuckets([...items, items[0]!], options)
    const session = openSession(model, { device: 'cpu', precision: 'f32', threads: 2 })
    try {
      const quiet = () => undefined
      const { latents } = await cacheLatents(session, model, images, options, quiet, quiet)
      const tokens = await tokenizeCaptions(model, images, options)
      assert.equal(heldBytes([latents, tokens]), cachedBytes(images, model, options, false))
      const texts = await cacheText(session, model, tokens, options, quiet)
      assert.equal(heldBytes([latents, tokens, texts]), cachedBytes(images, model, options, true))
    } finally {
      session.dispose()
    }
  })
}

/** Plans a run of two steps on the CPU, or a GPU with as much memory, of two images of 64 × 64 pixels, on a machine with so much. */
async function planTwo(change: Partial<Planned>, given: object, onGpu?: number, free?: number) {
  const plan = { weights: 0, mapped: 0, program: 0, adapters: 0, activations: 1000, workspace: 0, total: 1000 }
  const session = { planStep: () => plan, planRun: () => plan, fitStep: () => undefined, availableBytes: () => onGpu }
  const items = ['a', 'b'].map((caption) => ({ path: caption, caption, repeats: 1, width: 64, height: 64, folder: 'x' }))
  const options = resolveTrainOptions({ model: tiny, images: 'x', resolution: 64, steps: 2, ...given })
  const chosen = { device: onGpu === undefined ? 'cpu' : 'cuda', precision: 'f32', threads: 1 } as const
  const planned: Planned = { session, model: await readModel(tiny), items, lastTextStep: 0, chosen, label: asIs, saving: 7, ...change }
  return (await planMemory(planned, options, free)).memory
}

test('images, captions and saving are planned: on the CPU in the total, beside a GPU on their own', async () => {
  const latents = 2 * 8 * 8 * 4 * 4
  const [ids, text] = [2 * 77 * 4, 2 * 77 * 128 * 4]
  const host = latents + ids + text + 7
  const both = ({ host, total }: { host: number; total: number }) => [host, total]
  assert.deepEqual(both(await planTwo({}, {})), [host, 1000 + host])
  assert.deepEqual(both(await planTwo({}, {}, 2000)), [host, 1000])
  assert.deepEqual(both(await planTwo({}, { flip: true })), [host + latents, 1000 + host + latents])
  // Captions that steps encode to the end are never held.
  for (const [lastTextStep, expected] of [
    [Infinity, host - text],
    [2, host - text],
    [1, host],
  ] as const)
    assert.equal((await planTwo({ lastTextStep }, {})).host, expected)
})

test('a training whose images do not fit into this machine is refused, whatever the GPU has', async () => {
  const message = /^Expected 1 MiB of free memory for this training but received 0 MiB; no batchSize or resolution would fit$/
  await assert.rejects(planTwo({}, {}, 2 ** 40, 1000), { code: 'OUT_OF_MEMORY', message })
  await assert.rejects(planTwo({}, {}, 10, 2 ** 40), { code: 'OUT_OF_MEMORY', message: /on the GPU .* or try precision fp16$/ })
  const larger = { resolution: 128, buckets: false }
  await assert.rejects(planTwo({}, larger, 2 ** 40, 82_000), { code: 'OUT_OF_MEMORY', message: /; resolution 64 would fit$/ })
})
