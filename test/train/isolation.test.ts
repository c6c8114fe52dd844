import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { readTensors } from '../../lib/files/safetensors.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { train } from '../../lib/train/run.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { onlyLong } from '../long.js'
import { root } from './golden.js'

const options = (output: string, more: TrainOptions | object = {}): TrainOptions => ({
  ...{ model: `${root}examples/tiny-sd`, images: `${root}examples/emoji`, output, name: 'x' },
  ...{ resolution: 64, steps: 4, batchSize: 1, rank: 2, seed: 3, threads: 1, saveEvery: 0, ...more },
})

async function adapters(path: string): Promise<Buffer> {
  const tensors = await readTensors(path)
  return Buffer.concat([...tensors].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, { data }]) => Buffer.from(data.buffer)))
}

/** A worker thread that trains and posts each event's type, then `done`. */
function worker(input: TrainOptions): Worker {
  const source = `
    import { parentPort, workerData } from 'node:worker_threads'
    const { train } = await import(workerData.run)
    await train(workerData.input, { onEvent: ({ type }) => parentPort.postMessage(type) })
    parentPort.postMessage('done')`
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`), {
    workerData: { run: new URL('../../lib/train/run.js', import.meta.url).href, input },
  })
}

const until = (thread: Worker, type: string) =>
  new Promise<void>((resolve, reject) => {
    thread.on('message', (message) => message === type && resolve())
    thread.on('error', reject)
  })

// In short in test/lib/train/rivals.test.ts and run.test.ts.
describe('trainings beside each other', onlyLong, () => {
  it('gives the same adapters alone, beside another, with two threads and in a worker thread', async (t) => {
    const folder = await temporaryFolder(t)
    const at = (name: string) => join(folder, name)
    const alone = await adapters((await train(options(at('alone')))).path)
    const [a, b] = await Promise.all([train(options(at('a'))), train(options(at('b'), { threads: 2 }))])
    assert.deepEqual(await adapters(a.path), alone)
    assert.deepEqual(await adapters(b.path), alone)
    const thread = worker(options(at('worker')))
    await until(thread, 'done')
    await thread.terminate()
    assert.deepEqual(await adapters(join(at('worker'), 'x.safetensors')), alone)
  })

  it('survives the end of a worker thread in the middle of its work', async (t) => {
    const folder = await temporaryFolder(t)
    for (const [i, moment] of ['cache', 'start', 'step'].entries()) {
      const thread = worker(options(join(folder, String(i)), { steps: 1000 }))
      await until(thread, moment)
      await sleep(15 * i)
      await thread.terminate()
    }
  })

  it('rejects with AbortError whenever the signal comes, and resumes to the bits of a run that was left alone', async (t) => {
    const folder = await temporaryFolder(t)
    const whole = await adapters((await train(options(join(folder, 'whole'), { steps: 8 }))).path)
    for (const [i, moment] of ['cache', 'start', 'step'].entries()) {
      const output = join(folder, String(i))
      const controller = new AbortController()
      let steps = 0
      const onEvent = ({ type }: { type: string }) => {
        if (type === moment && (type !== 'step' || ++steps === 3)) controller.abort()
      }
      await assert.rejects(train(options(output, { steps: 8 }), { signal: controller.signal, onEvent }), { name: 'AbortError' })
      const saved = (await readdir(output).catch((): string[] => [])).some((file) => file.includes('state'))
      assert.equal(saved, moment === 'step', `a state after ${moment}`)
      const { path } = await train(options(output, { steps: 8, ...(saved ? { resume: true } : {}) }))
      assert.deepEqual(await adapters(path), whole, `aborted at ${moment}`)
    }
    await assert.rejects(train(options(join(folder, 'never')), { signal: AbortSignal.abort() }), { name: 'AbortError' })
  })
})
