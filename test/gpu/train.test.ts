import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { doctor } from '../../lib/doctor.js'
import type { StepEvent, TrainEvent } from '../../lib/events.js'
import { readTensors } from '../../lib/files/safetensors.js'
import { train } from '../../lib/index.js'
import type { TrainOptions } from '../../lib/options/resolve.js'
import { copyImages } from '../fixtures/images.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { limit, type Place, readGolden } from '../train/golden.js'
import { hasGpu, root } from './emulated.js'

async function run(given: TrainOptions, signal?: AbortSignal, seen?: (event: TrainEvent) => void): Promise<StepEvent[]> {
  const steps: StepEvent[] = []
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'step') steps.push(event)
    seen?.(event)
  }
  await train(given, { signal, onEvent })
  return steps
}

async function options(t: TestContext): Promise<TrainOptions & { output: string }> {
  const folder = await temporaryFolder(t)
  const images = await copyImages(folder, 2)
  return {
    model: tiny,
    images,
    output: join(folder, 'out'),
    resolution: 64,
    steps: 4,
    batchSize: 1,
    rank: 2,
    seed: 3,
    saveEvery: 0,
    flip: true,
  }
}

async function bits(output: string) {
  return [await readTensors(join(output, 'lora.state')), await readTensors(join(output, 'lora.safetensors'))]
}

if (hasGpu()) {
  test('the doctor names the gpu', () => {
    const { cuda } = doctor()
    assert.ok(cuda.available && cuda.gpu.includes('compute capability'), cuda.reason)
  })

  for (const computes of ['f32', 'fp16'] as const) {
    test(`a training on the gpu in ${computes} has the losses and the adapters of one on the CPU`, async (t) => {
      const given = await options(t)
      const golden = await readGolden('golden-tiny-sd', 'examples/tiny-sd')
      const place: Place = { title: '', device: 'cuda', computes }
      const expected = await run({ ...given, device: 'cpu', output: `${given.output}-cpu` })
      const received = await run({ ...given, device: 'cuda', precision: computes })
      assert.equal(received.length, 4)
      for (const [i, { loss }] of received.entries()) {
        // |Δ mean((p − ε)²)| ≤ 2·rms(p − ε)·rms(Δp), and p is as large as ε, about 1.
        const bound = 2 * Math.sqrt(expected[i]!.loss) * limit(golden, place, 'unet_lora')
        t.diagnostic(`step ${i + 1}: ${loss} and ${expected[i]!.loss}, allowed ${bound.toExponential(1)}`)
        assert.ok(Math.abs(loss - expected[i]!.loss) <= bound, `step ${i + 1}: ${loss} instead of ${expected[i]!.loss}`)
      }
      const [cpu] = await bits(`${given.output}-cpu`)
      const [gpu] = await bits(given.output)
      const norm = (values: Float32Array) => Math.hypot(...values)
      const [a, b] = [cpu!.get('weights')!.data, gpu!.get('weights')!.data]
      const error = norm(a.map((value, i) => value - b[i]!)) / norm(a)
      t.diagnostic(`adapters: relative difference ${error.toExponential(1)}`)
      assert.ok(error <= limit(golden, place, 'trained'), `the adapters differ by ${error}`)
    })
  }

  test('a training on the gpu that is stopped and resumed ends in the bits of one that is not', async (t) => {
    const given: TrainOptions & { output: string } = { ...(await options(t)), device: 'cuda' }
    await run({ ...given, output: `${given.output}-whole` })
    const controller = new AbortController()
    const stop = (event: TrainEvent) => {
      if (event.type === 'step' && event.step === 2) controller.abort()
    }
    await assert.rejects(run(given, controller.signal, stop), { name: 'AbortError' })
    const steps = await run({ ...given, resume: true })
    assert.deepEqual(
      steps.map(({ step }) => step),
      [3, 4],
    )
    assert.deepEqual(await bits(given.output), await bits(`${given.output}-whole`))
  })

  test('a training on the gpu that gets signals at random moments and is resumed ends in the bits of one that is left alone', () => {
    const words = ['scripts/torture/torture.js', '--only', 'signals', '--case', '0', '--device', 'cuda']
    const { status, stdout, stderr } = spawnSync(process.execPath, words, { cwd: root, encoding: 'utf8' })
    assert.equal(status, 0, stdout + stderr)
    assert.match(stdout, /\b1 resumed to the end/)
  })

  test('without memory on the gpu a training ends with one sentence, and with bf16 on a gpu that has none', async (t) => {
    const given: TrainOptions = { ...(await options(t)), device: 'cuda' }
    await assert.rejects(run({ ...given, precision: 'bf16' }), {
      code: 'PRECISION_UNSUPPORTED',
      message: /^Expected fp16 or f32 for precision/,
    })
    const script = `import { train } from ${JSON.stringify(join(root, 'dist/lib/index.js'))}
      await train(${JSON.stringify(given)}).catch(({ code, message }) => console.log(code, message))`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, PTXEMU_MEMORY: '16M' },
    })
    assert.match(stdout, /^OUT_OF_MEMORY Expected \d+ MiB of free memory on the GPU for this training but received \d+ MiB; /)
  })

  test('on a machine without a gpu, cuda is refused with why, and auto takes the CPU', async (t) => {
    const given = { ...(await options(t)), steps: 1 }
    const script = `import { train } from ${JSON.stringify(join(root, 'dist/lib/index.js'))}
      await train(${JSON.stringify({ ...given, device: 'cuda' })}).catch(({ code, message }) => console.log(code, message))
      await train(${JSON.stringify({ ...given, device: 'auto' })})
      console.log('trained')`
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, PTXEMU_DEVICES: '0' },
    })
    assert.match(stdout, /^NO_DEVICE Expected a CUDA GPU but found none: .*\ntrained\n$/, stderr)
  })
}
