import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { TrainEvent } from '../../../lib/events.js'
import { enqueue, trainEvents } from '../../../lib/train/iterate.js'
import { copyImages } from '../../fixtures/images.js'
import { tiny } from '../../fixtures/lora.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

async function options(t: TestContext) {
  const folder = await temporaryFolder(t)
  return { model: tiny, images: await copyImages(folder, 1), output: join(folder, 'out'), resolution: 64, rank: 2, saveEvery: 0 }
}

test('the events of a training come in order and end with it', async (t) => {
  const types: TrainEvent['type'][] = []
  for await (const { type } of trainEvents({ ...(await options(t)), steps: 3 })) types.push(type)
  assert.deepEqual(
    types.filter((type) => type === 'step' || type === 'start'),
    ['start', 'step', 'step', 'step'],
  )
  assert.equal(types.at(-1), 'done')
})

test('leaving the loop stops the training after the current step, whose state is saved', async (t) => {
  const given = await options(t)
  for await (const event of trainEvents({ ...given, steps: 100_000 })) if (event.type === 'step') break
  assert.ok((await readdir(given.output)).some((name) => name.includes('state')))
})

test('disposal stops the training too, and before the first read nothing has begun', async (t) => {
  const given = await options(t)
  const unread = trainEvents({ ...given, steps: 100_000 })
  await unread[Symbol.asyncDispose]()
  assert.deepEqual(await readdir(given.output).catch(() => []), [])
  const events = trainEvents({ ...given, steps: 100_000 })
  await events.next()
  await events[Symbol.asyncDispose]()
  assert.deepEqual(await events.next(), { value: undefined, done: true })
})

test('failure and abortion reject the read', async (t) => {
  const given = await options(t)
  await assert.rejects(trainEvents({ ...given, rank: 0 }).next(), { code: 'OPTION_INVALID' })
  const controller = new AbortController()
  const read = async () => {
    for await (const event of trainEvents({ ...given, steps: 100_000 }, { signal: controller.signal }))
      if (event.type === 'step') controller.abort()
  }
  await assert.rejects(read(), { name: 'AbortError' })
})

test('a reader that is slow misses nothing that fits', async (t) => {
  const given = await options(t)
  const steps: number[] = []
  for await (const event of trainEvents({ ...given, steps: 4 })) {
    if (event.type === 'step') steps.push(event.step)
    if (event.type === 'start') await new Promise((resolve) => setTimeout(resolve, 300))
  }
  assert.deepEqual(steps, [1, 2, 3, 4])
})

test('a reader that is too slow misses the oldest steps, never a checkpoint or the end', () => {
  const queue: TrainEvent[] = []
  const step = (number: number) => ({ type: 'step', step: number }) as TrainEvent
  const checkpoint: TrainEvent = { type: 'checkpoint', step: 1, path: 'a', statePath: 'b' }
  const done: TrainEvent = { type: 'done', step: 9, path: 'a', seconds: 1 }
  for (const event of [step(1), checkpoint, step(2), step(3), step(4), done]) enqueue(queue, event, 3)
  assert.deepEqual(queue, [checkpoint, step(4), done])
})
