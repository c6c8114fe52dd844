import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readModel } from '../../../lib/models/read.js'
import { asIs, resolveTrainOptions } from '../../../lib/options/resolve.js'
import { type Planned, planMemory } from '../../../lib/train/memory.js'
import { tiny } from '../../fixtures/lora.js'

/** Plans steps on images of these sizes, none of which is enlarged; `onPlan` is called with the shape of each step's latents. */
async function plan(sizes: [width: number, height: number, repeats?: number][], onPlan: (shape: number[]) => void, signal?: AbortSignal) {
  const none = { weights: 0, mapped: 0, adapters: 0, activations: 0, workspace: 0 }
  const session = {
    planStep: ({ latents }: Record<string, number[]>) => {
      onPlan(latents!)
      return { ...none, total: latents!.reduce((product, length) => product * length, 1) }
    },
    planRun: () => ({ ...none, total: 0 }),
    availableBytes: () => 2 ** 40,
  }
  const items = sizes.map(([width, height, repeats = 1], i) => ({ path: `${i}.png`, caption: '', repeats, width, height, folder: 'x' }))
  const options = resolveTrainOptions({ model: tiny, images: 'x', resolution: 256, batchSize: 2, bucketNoUpscale: true })
  const chosen = { device: 'cpu', precision: 'f32', threads: 1 } as const
  const planned: Planned = {
    session,
    model: await readModel(tiny),
    items,
    trainsText: false,
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
  const none = { weights: 0, mapped: 0, adapters: 0, activations: 0, workspace: 0, total: 0 }
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
    availableBytes: () => 1,
  }
  const items = [{ path: 'a.png', caption: '', repeats: 2, width: 64, height: 64, folder: 'x' }]
  const options = resolveTrainOptions({ model: tiny, images: 'x', resolution: 64, batchSize: 2, maxTokenLength: 150 })
  const chosen = { device: 'cpu', precision: 'f32', threads: 1 } as const
  const shared = { session, model: await readModel(tiny), items, chosen, label: asIs, saving: 0 }
  await planMemory({ ...shared, trainsText: true }, options)
  const ids = [
    ['text_encoder.ids', [4, 77]],
    ['text_encoder.rows', [2, 152]],
  ]
  // Then the same step is planned with what it would take otherwise.
  assert.deepEqual(calls.splice(0).slice(0, 2), [ids, 'vae'])
  await planMemory({ ...shared, trainsText: false }, options)
  assert.deepEqual(calls.slice(0, 3), [[['context', [2, 152, shared.model.contextDim]]], 'vae', 'text_encoder'])
})
