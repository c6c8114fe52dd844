import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, stat, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Adapters, parameterCount } from '../../../lib/adapters/adapter.js'
import { lora } from '../../../lib/adapters/lora.js'
import { readHeader, readTensors, writeSafetensors } from '../../../lib/files/safetensors.js'
import type { BufferInfo } from '../../../lib/native.js'
import { OutputFolder } from '../../../lib/train/output.js'
import { linear } from '../../fixtures/fake-session.js'
import { temporaryFolder } from '../../fixtures/temporary.js'
import { pattern } from '../../train/pattern.js'

/** Large enough for the hash of what lies beyond the first mebibyte. */
const layer = linear('a.b', 2000, 3000)
const parameters = [
  { network: 'unet', name: 'a.b.down', shape: [64, 2000], group: 0 },
  { network: 'unet', name: 'a.b.up', shape: [3000, 64], group: 0 },
]
const adapters: Adapters = { kind: lora, alpha: 32, layers: { unet: [layer] }, parameters }
const prefixes = { unet: { prefix: 'lora_unet' } }
const count = parameterCount(parameters)
const infos = (count: number): BufferInfo[] => ['weights', 'firstMoment'].map((name) => ({ name, dtype: 'F32', count }))
const buffers = { weights: pattern('w', count), firstMoment: pattern('m', count), secondMoment: pattern('v', count) }
const identity = { model: { unet: 'm' }, images: 'i', contents: 'f', tokens: 't', settings: {} }
const state = { step: 100, run: { sessionId: 1, startedAt: 1 }, lossScale: undefined, identity, buffers }

for (const [savePrecision, dtype, error] of [
  ['fp16', 'F16', 2 ** -11],
  ['bf16', 'BF16', 2 ** -8],
  ['f32', 'F32', 0],
] as const) {
  test(`a LoRA is written in ${savePrecision}, with kohya's hashes of it`, async (t) => {
    const output = await temporaryFolder(t)
    const saved = await new OutputFolder({ output, name: 'x', savePrecision, networkFormat: 'kohya' }, adapters, prefixes).save(
      { step: 100 },
      state,
      {
        ss_a: '1',
        b: '2',
      },
    )
    assert.equal(saved.path, join(output, 'x-step00000100.safetensors'))
    assert.equal(saved.statePath, join(output, 'x-step00000100.state'))
    const { metadata, tensors, dataStart } = await readHeader(saved.path)
    assert.deepEqual(tensors.map(({ name, dtype, shape }) => [name, dtype, shape]).sort(), [
      ['lora_unet_a_b.alpha', dtype, []],
      ['lora_unet_a_b.lora_down.weight', dtype, [64, 2000]],
      ['lora_unet_a_b.lora_up.weight', dtype, [3000, 64]],
    ])
    const read = await readTensors(saved.path)
    const down = read.get('lora_unet_a_b.lora_down.weight')!.data
    assert.ok(down.every((value, i) => Math.abs(value - buffers.weights[i]!) <= error * Math.max(Math.abs(buffers.weights[i]!), 2 ** -14)))
    const bytes = await readFile(saved.path)
    assert.equal(bytes.subarray(8, 10).toString(), '{"')
    assert.equal(metadata.sshs_model_hash, createHash('sha256').update(bytes.subarray(dataStart)).digest('hex'))
    // As the file would be with ss_ metadata alone.
    const bare = join(output, 'bare')
    await writeSafetensors(
      bare,
      tensors.map(({ name, shape }) => ({ name, dtype, shape, data: read.get(name)!.data })),
      { ss_a: '1' },
    )
    const part = (await readFile(bare)).subarray(0x100000, 0x110000)
    if (savePrecision === 'f32') assert.equal(part.length, 0x10000)
    assert.equal(metadata.sshs_legacy_hash, createHash('sha256').update(part).digest('hex').slice(0, 8))
    assert.equal(metadata.b, '2')
  })
}

test("names are kohya's", async (t) => {
  const output = await temporaryFolder(t)
  const place = new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  const { path: epoch } = await place.save({ epoch: 2 }, state, {})
  const { path: last } = await place.save('last', state, {})
  assert.deepEqual([epoch, last], [join(output, 'x-000002.safetensors'), join(output, 'x.safetensors')])
})

test('a folder that cannot be made or written to is refused before anything else', async (t) => {
  const folder = await temporaryFolder(t)
  await writeFile(join(folder, 'file'), '')
  for (const output of [join(folder, 'file'), join(folder, 'file', 'x'), '/proc/x']) {
    const place = new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
    await assert.rejects(place.prepare(infos(count)), {
      code: 'OUTPUT_NOT_WRITABLE',
      message: /^Expected to be able to write a file like .*x-step00000000\.safetensors\.tmp-\w+ but received /,
    })
  }
})

test('a disk without room for a LoRA and its state is refused before anything else', async (t) => {
  const output = await temporaryFolder(t)
  const place = new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  await assert.rejects(place.prepare(infos(1e15)), { code: 'DISK_FULL' })
  await place.close()
  assert.deepEqual(await readdir(output), [])
})

test('preparing makes the folder and removes what killed processes left of this name alone', async (t) => {
  const output = join(await temporaryFolder(t), 'a', 'b')
  const place = new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  await place.prepare(infos(count))
  assert.deepEqual(await readdir(output), ['x.lock'])
  await place.close()
  await assert.rejects(stat(output), { code: 'ENOENT' })
  await mkdir(output, { recursive: true })
  const stale = ['x.safetensors', 'x-step00000100.state', 'x-000001-state.safetensors', 'x-000001.safetensors', 'x.lock']
  const kept = [
    'x.safetensors',
    'y.safetensors.tmp-0a1b2c3d4e5f',
    'xy.state.tmp-0a1b2c3d4e5f',
    'x-more.safetensors.tmp-1-1',
    'x.safetensors.tmp-x',
  ]
  for (const name of stale) for (const end of ['0a1b2c3d4e5f', '77-12']) await writeFile(join(output, `${name}.tmp-${end}`), '')
  for (const name of kept) await writeFile(join(output, name), '')
  await place.prepare(infos(count))
  await place.close()
  assert.deepEqual((await readdir(output)).sort(), kept.sort())
})

test('a name that is too long is refused before anything else', async (t) => {
  const output = await temporaryFolder(t)
  const place = new OutputFolder({ output, name: 'x'.repeat(230), savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  await assert.rejects(place.prepare(infos(count)), { code: 'OUTPUT_NOT_WRITABLE', message: /but received a name that is too long$/ })
  assert.deepEqual(await readdir(output), [])
})

test('two of the same name and folder cannot be prepared at once, others can', async (t) => {
  const output = await temporaryFolder(t)
  const folder = (name: string) => new OutputFolder({ output, name, savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  const [first, second, other] = [folder('x'), folder('x'), folder('y')]
  await first.prepare(infos(count))
  await other.prepare(infos(count))
  const message = new RegExp(`^Expected no other training of x in ${output} but received one that runs, of process ${process.pid} on `)
  await assert.rejects(second.prepare(infos(count)), { code: 'OUTPUT_LOCKED', message })
  await second.close()
  await assert.rejects(second.prepare(infos(count)), { code: 'OUTPUT_LOCKED' })
  await first.close()
  await second.prepare(infos(count))
  await second.close()
  await other.close()
  assert.deepEqual(await readdir(output), [])
})

for (const [alpha, dtype] of [
  [16, 'F16'],
  [0.1, 'F32'],
  [1e6, 'F32'],
  [1e-9, 'F32'],
] as const) {
  test(`an alpha of ${alpha} is written in ${dtype}, which holds it`, async (t) => {
    const output = await temporaryFolder(t)
    const place = new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, { ...adapters, alpha }, prefixes)
    const { path } = await place.save('last', state, {})
    assert.deepEqual((await readTensors(path)).get('lora_unet_a_b.alpha'), { dtype, shape: [], data: Float32Array.of(alpha) })
  })
}

test('nothing is saved once another has taken the name', async (t) => {
  const output = await temporaryFolder(t)
  const folder = () => new OutputFolder({ output, name: 'x', savePrecision: 'fp16', networkFormat: 'kohya' }, adapters, prefixes)
  const [first, second] = [folder(), folder()]
  await first.prepare(infos(count))
  await unlink(join(output, 'x.lock'))
  await second.prepare(infos(count))
  const message = /^Expected this training of x in .* to have its lock .*x\.lock but received another's; nothing more is saved, as /
  await assert.rejects(first.save({ step: 100 }, state, {}), { code: 'OUTPUT_LOCKED', message })
  await first.close()
  assert.deepEqual(await readdir(output), ['x.lock'])
  await second.save({ step: 100 }, state, {})
  await second.close()
})
