import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import type { TrainEvent } from '../../../lib/events.js'
import { train } from '../../../lib/train/run.js'
import { assertWhole, files, place, run, runPath, tensors } from '../../fixtures/training.js'

test('two trainings at once, and one in a worker, end as each does alone', async (t) => {
  const [first, second] = [await place(t, 1), { ...(await place(t, 2)), seed: 3 }]
  const alone = [await tensors((await run(first)).path), await tensors((await run(second)).path)]
  const again = [first, second].map((given) => ({ ...given, name: 'again' }))
  const both = await Promise.all(again.map((given) => run(given)))
  assert.deepEqual(await Promise.all(both.map(({ path }) => tensors(path))), alone)

  const { folder: _, ...options } = { ...second, name: 'worker' }
  const code = `
    const { parentPort, workerData } = require('node:worker_threads')
    import(workerData.runPath).then(({ train }) => train(workerData.options)).then(({ path }) => parentPort.postMessage(path))`
  const worker = new Worker(code, { eval: true, workerData: { runPath, options } })
  const [[path]] = (await Promise.all([once(worker, 'message'), once(worker, 'exit')])) as [[string], unknown]
  assert.deepEqual(await tensors(path), alone[1])
})

test('a worker may be ended in the middle of a training', async (t) => {
  const { folder: _, ...options } = { ...(await place(t)), steps: 100_000 }
  const code = `
    const { parentPort, workerData } = require('node:worker_threads')
    const onEvent = (event) => event.type === 'step' && parentPort.postMessage(event.step)
    import(workerData.runPath).then(({ train }) => train(workerData.options, { onEvent }))`
  const worker = new Worker(code, { eval: true, workerData: { runPath, options } })
  await once(worker, 'message')
  await worker.terminate()
  // Its lock is left; nobody holds it.
  await train({ ...options, steps: 1 })
  await assertWhole(options.output)
})

test('a second training of the same name and folder is refused while the first runs, in one process and between two', async (t) => {
  const { folder: _, ...options } = { ...(await place(t)), steps: 1000 }
  const refused = { code: 'OUTPUT_LOCKED', message: /^Expected no other training of lora in .* but received one that runs, of process \d+/ }
  const controller = new AbortController()
  let second: Promise<unknown> | undefined
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'start') second = assert.rejects(train(options), refused).finally(() => controller.abort())
  }
  await assert.rejects(train(options, { onEvent, signal: controller.signal }), { name: 'AbortError' })
  await second
  const code = `const onEvent = ({ type }) => type === 'step' && console.log(type)
    import(${JSON.stringify(runPath)}).then(({ train }) => train(${JSON.stringify(options)}, { onEvent }))`
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  await assert.rejects(train(options), refused)
  child.kill('SIGKILL')
  await once(child, 'exit')
  await train({ ...options, steps: 1 })
  await assertWhole(options.output)
})

test('two Workers train to one folder under two names', async (t) => {
  const { folder: _, ...options } = { ...(await place(t)), saveEvery: 1 }
  const code = `
    const { workerData } = require('node:worker_threads')
    import(workerData.runPath).then(({ train }) => train(workerData.options))`
  const workers = ['a', 'b'].map((name) => new Worker(code, { eval: true, workerData: { runPath, options: { ...options, name } } }))
  await Promise.all(workers.map((worker) => once(worker, 'exit')))
  const loras = (await files(options.output)).filter((name) => name.endsWith('.safetensors'))
  assert.equal(loras.length, 8)
  await assertWhole(options.output)
})
