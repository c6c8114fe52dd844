import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { readModel } from '../../lib/models/read.js'
import { type Network, native, type OptimizerSpec, type Session, type SessionOptions } from '../../lib/native.js'
import { tiny } from '../fixtures/lora.js'
import { temporaryFolder } from '../fixtures/temporary.js'

const { networks } = await readModel(tiny)
const options: SessionOptions = { device: 'cpu', threads: 1, precision: 'f32', networks }
const open = () => new (native().Session)(options)

/** A session whose network has other values in its config. */
function altered(name: string, config: Network['config']): Session {
  const network = networks[name]!
  return new (native().Session)({ ...options, networks: { [name]: { ...network, config: { ...network.config, ...config } } } })
}

function attach(session: Session, optimizer?: OptimizerSpec): void {
  const { path } = session.layers('unet')[0]!
  session.attach([{ network: 'unet', path, kind: 'lora', rank: 2, scale: 1, group: 0 }], optimizer)
}

test('numbers of a config that an int does not hold are refused by name', () => {
  const pixels = { pixels: [1, 16, 16, 3] }
  const ids = { ids: [1, 77] }
  const invalid = (name: string) => ({ code: 'CONFIG_INVALID', message: new RegExp(name) })
  for (const odd of [2 ** 32, 2 ** 31, 2 ** 53, 0, -1, 0.5]) {
    assert.throws(() => altered('vae', { norm_num_groups: odd }).planRun('vae', 'encode', pixels), invalid('norm_num_groups'))
    const text = altered('text_encoder', { num_attention_heads: odd })
    assert.throws(() => text.planRun('text_encoder', 'encode', ids), invalid('num_attention_heads'))
    assert.throws(() => altered('unet', { norm_num_groups: odd }).layers('unet'), invalid('norm_num_groups'))
  }
  const width = 6 * 256
  for (const projection of [width, width - 1, 1]) {
    const unet = altered('unet', { addition_time_embed_dim: 256, projection_class_embeddings_input_dim: projection })
    assert.throws(() => unet.layers('unet'), invalid('projection_class_embeddings_input_dim'))
  }
})

test('shapes whose sizes overflow are refused, whatever asks for them', async () => {
  const session = open()
  attach(session, { name: 'adamw', beta1: 0.9, beta2: 0.999, epsilon: 1e-8 })
  const { cross_attention_dim: dim } = networks.unet!.config as { cross_attention_dim: number }
  const none = { code: 'OUT_OF_MEMORY' }
  const side = 2 ** 18
  const unet = { latents: [1, side, side, 4], timesteps: [1], context: [1, 77, dim] }
  assert.throws(() => session.planRun('unet', 'predict', unet), none)
  assert.throws(() => session.planRun('vae', 'decode', { latents: [1, side, side, 4] }), none)
  const latents = [2 ** 10, 2 ** 14, 2 ** 14, 4]
  const step = { ...{ latents, noise: latents }, coefficients: [2 ** 10, 2], target_coefficients: [2 ** 10, 2], timesteps: [2 ** 10] }
  await assert.rejects(session.prepare({ ...step, context: [2 ** 10, 77, dim] }), none)
  assert.throws(() => session.planRun('vae', 'decode', { latents: [2 ** 53, 2 ** 53, 2 ** 53, 4] }), { code: 'ARGUMENT_INVALID' })
  session.dispose()
})

test('a getter that disposes of the session while arguments are read gets DISPOSED', async () => {
  const disposed = { code: 'DISPOSED' }
  for (const name of ['attach', 'planStep', 'planRun', 'run', 'load', 'step', 'prepare'] as const) {
    const session = open()
    const disposing = <Value>(value: Value) => {
      session.dispose()
      return value
    }
    const shapes = {
      get ids() {
        return disposing([1, 77])
      },
    }
    const tensors = {
      get ids() {
        return disposing({ shape: [1, 77], data: new Int32Array(77) })
      },
    }
    const update = {
      ...{ groups: [], maxGradNorm: 1, lossScale: 1 },
      get step() {
        return disposing(1)
      },
    }
    const adapters = [
      {
        ...{ network: 'unet', path: 'x', kind: 'lora' as const, rank: 1, scale: 1 },
        get group() {
          return disposing(0)
        },
      },
    ]
    const calls: Record<typeof name, () => unknown> = {
      attach: () => session.attach(adapters),
      planStep: () => session.planStep(shapes),
      planRun: () => session.planRun('text_encoder', 'encode', shapes),
      run: () => session.run('text_encoder', 'encode', tensors),
      load: () => session.load(tensors),
      step: () => session.step(new Float32Array(1), update),
      prepare: () => session.prepare(shapes),
    }
    await assert.rejects(async () => calls[name](), disposed, name)
  }
})

test('a buffer is read into an array that is given', () => {
  const session = open()
  attach(session)
  const { count } = session.buffers()[0]!
  const values = Float32Array.from({ length: count }, (_, i) => i)
  session.write('weights', values)
  const there = new Float32Array(new ArrayBuffer(4 * count + 4), 4)
  assert.equal(session.read('weights', there), there)
  assert.deepEqual([there, session.read('weights')], [values, values])
  for (const other of [there.subarray(1), new Float64Array(count), [1]])
    assert.throws(() => session.read('weights', other as Float32Array), { code: 'ARGUMENT_INVALID' })
  session.dispose()
})

test('where JavaScript has no memory for a result, the call says so and the session goes on', async () => {
  const session = open()
  attach(session)
  const ids = { ids: { shape: [1, 77], data: new Int32Array(77) } }
  const real = globalThis.Float32Array
  const none = { code: 'OUT_OF_MEMORY' }
  globalThis.Float32Array = class {
    constructor() {
      throw new RangeError('Array buffer allocation failed')
    }
  } as unknown as typeof Float32Array
  try {
    assert.throws(() => session.read('weights'), none)
    await assert.rejects(session.run('text_encoder', 'encode', ids), none)
  } finally {
    globalThis.Float32Array = real
  }
  assert.equal((await session.run('text_encoder', 'encode', ids))[0]!.data.constructor, Float32Array)
  session.dispose()
})

test('calls leave nothing behind, whether they succeed or fail', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const session = open()
  attach(session)
  const many = async (count: number) => {
    for (let i = 0; i < count; i++) await session.losses()
    for (let i = 0; i < count / 10; i++) await session.load(i as never).catch(() => undefined)
    collect()
    const { used_global_handles_size: handles, used_heap_size: heap } = getHeapStatistics()
    return { handles, heap }
  }
  await many(1000)
  const before = await many(1000)
  const after = await many(50_000)
  assert.ok(after.handles <= before.handles + 4096, `handles: ${before.handles} bytes, then ${after.handles}`)
  assert.ok(after.heap <= before.heap + 2 ** 20, `heap: ${before.heap} bytes, then ${after.heap}`)
  session.dispose()
})

test('a pipe without a writer in place of a weight file is refused at once', async (t) => {
  const path = join(await temporaryFolder(t), 'pipe')
  assert.equal(spawnSync('mkfifo', [path]).status, 0)
  const unet = { ...networks.unet!, files: [{ path, tensors: [] }] }
  assert.throws(() => new (native().Session)({ ...options, networks: { unet } }), { code: 'FILE_UNREADABLE' })
})
