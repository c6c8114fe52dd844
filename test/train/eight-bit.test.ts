/** Whole models whose weights torch rounded to 8 bits (scripts/goldens/layouts.py): what is loaded is what torch widens them to, bit for bit. */
import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type NumberType, narrow, widen } from '../../lib/files/floats.js'
import { type Model, openSession } from '../../lib/models/model.js'
import { readModel } from '../../lib/models/read.js'
import type { Inputs, WeightEntry } from '../../lib/native.js'
import { temporaryFolder } from '../fixtures/temporary.js'
import { root } from './golden.js'
import { goldenModel, singleFile, toEight } from './hollow.js'
import { pattern } from './pattern.js'

type Eight = 'F8_E4M3' | 'F8_E5M2'
const isEight = (dtype: string): dtype is Eight => dtype.startsWith('F8')
const countOf = ({ shape }: Pick<WeightEntry, 'shape'>) => shape.reduce((product, length) => product * length, 1)
const WIDTHS: Record<string, number> = { F32: 4, F16: 2, F8_E4M3: 1, F8_E5M2: 1 }

/** Whether arrays have the same bits, said quickly. */
function assertSame(found: Uint8Array | Float32Array, expected: Uint8Array | Float32Array, path: string): void {
  const [one, other] = [found, expected].map(({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength))
  assert.ok(one!.equals(other!), path)
}

/** What torch makes of each byte: null where that is not finite. */
async function torchTable(name: 'e4m3' | 'e5m2'): Promise<(number | null)[]> {
  const golden = JSON.parse(await readFile(join(root, 'test/fixtures/pickles/expected.json'), 'utf8')) as {
    eight: Record<string, { bytes: string; values: number[] }>
  }
  const { bytes, values } = golden.eight[name]!
  const table: (number | null)[] = new Array(256).fill(null)
  for (const [i, byte] of Buffer.from(bytes, 'hex').entries()) table[byte] = values[i]!
  return table
}

/** Each network's weights as they lie in the files, by our names. */
async function weightsOf({ networks }: Model): Promise<Map<string, { entry: WeightEntry; bytes: Uint8Array }>> {
  const found = new Map<string, { entry: WeightEntry; bytes: Uint8Array }>()
  for (const [network, { files }] of Object.entries(networks)) {
    for (const { path, tensors } of files) {
      const file = new Uint8Array(await readFile(path))
      for (const entry of tensors) {
        const bytes = file.slice(entry.offset, entry.offset + countOf(entry) * WIDTHS[entry.dtype]!)
        found.set(`${network} ${entry.name}`, { entry, bytes })
      }
    }
  }
  return found
}

/** Writes all weights of 8 bits as f16 and returns the model with them in place of its own. */
async function widened(model: Model, folder: string): Promise<Model> {
  const networks: Model['networks'] = {}
  for (const [network, parts] of Object.entries(model.networks)) {
    const pieces: Uint8Array[] = []
    let offset = 0
    const tensors: WeightEntry[] = []
    for (const { entry, bytes } of (await weightsOf({ ...model, networks: { [network]: parts } })).values()) {
      const half = isEight(entry.dtype)
      const content = half ? narrow(widen(bytes, entry.dtype as NumberType), 'F16') : bytes
      tensors.push({ ...entry, dtype: half ? 'F16' : entry.dtype, offset })
      // Places of any tensor are multiples of 8.
      const room = new Uint8Array(Math.ceil(content.length / 8) * 8)
      room.set(content)
      pieces.push(room)
      offset += room.length
    }
    const path = join(folder, `${network}.weights`)
    await writeFile(path, Buffer.concat(pieces))
    networks[network] = { ...parts, files: [{ path, tensors }] }
  }
  return { ...model, networks }
}

/** What all networks compute with a model's weights. */
async function computed(model: Model): Promise<Float32Array[]> {
  const text = model.family.text.map(({ network, skip, norm, pooled }) => ({ network, skip: skip(1), norm, pooled }))
  const session = openSession(model, { device: 'cpu', threads: 2, precision: 'f32', text })
  const results: Float32Array[] = []
  for (const { network } of model.family.text) {
    const tokenizer = model.tokenizers[network]!
    const ids = { shape: [1, 77], data: tokenizer.chunk(tokenizer.ids('a red fox', 75), 1) }
    results.push((await session.run(network, 'encode', { ids }, { skip: 0 }))[0]!.data as Float32Array)
  }
  session.attach([])
  const tensor = (name: string, ...shape: number[]) => ({ shape, data: pattern(name, countOf({ shape })) })
  const inputs: Inputs = {
    ...{ latents: tensor('latents', 1, 8, 8, 4), timesteps: { shape: [1], data: Float32Array.of(500) } },
    context: tensor('context', 1, 77, model.contextDim),
    ...(model.pooledDim > 0 && { pooled: tensor('pooled', 1, model.pooledDim), time_ids: tensor('time_ids', 1, 6) }),
  }
  results.push((await session.run('unet', 'predict', inputs))[0]!.data as Float32Array)
  results.push((await session.run('vae', 'encode', { pixels: tensor('pixels', 1, 32, 32, 3) }))[0]!.data as Float32Array)
  results.push((await session.run('vae', 'decode', { latents: tensor('latents', 1, 4, 4, 4) }))[0]!.data as Float32Array)
  session.dispose()
  return results
}

for (const [file, folder, name, dtype] of [
  ['sd1-e5m2.safetensors', 'golden-sd1-model', 'e5m2', 'F8_E5M2'],
  ['sdxl-v-e4m3.safetensors', 'golden-sdxl-model', 'e4m3', 'F8_E4M3'],
] as const) {
  test(`${file} is its folder rounded to 8 bits, and computes as the same numbers in f16`, async (t) => {
    const model = await readModel(await singleFile(file))
    const [eight, full] = [await weightsOf(model), await weightsOf(await readModel(await goldenModel(folder)))]
    const table = await torchTable(name)
    let count = 0
    assert.deepEqual([...eight.keys()].sort(), [...full.keys()].sort())
    for (const [path, { entry, bytes }] of eight) {
      const theirs = full.get(path)!
      assert.equal(countOf(entry), countOf(theirs.entry), path)
      if (!isEight(entry.dtype)) {
        assertSame(bytes, theirs.bytes, path)
        continue
      }
      count += 1
      assert.equal(entry.dtype, dtype, path)
      assertSame(bytes, toEight(new Uint16Array(theirs.bytes.buffer), dtype), path)
      const torchs = new Float32Array(bytes.length)
      for (let i = 0; i < bytes.length; i++) torchs[i] = table[bytes[i]!] ?? Number.NaN
      assertSame(widen(bytes, dtype), torchs, path)
    }
    assert.ok(count > 300)
    assert.deepEqual(await computed(model), await computed(await widened(model, await temporaryFolder(t))))
  })
}
