/** Trainings of one small model from a folder and from single files. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { narrow, widen } from '../../lib/files/floats.js'
import { leftovers, singleFileTensors, smallModel, writeFolder, writeLayouts } from '../fixtures/checkpoints.js'
import { torchLegacy, torchZip } from '../fixtures/pickles.js'
import { type RawTensor, writeRaw } from '../fixtures/safetensors.js'
import { place, run, tensors, trainUntil } from '../fixtures/training.js'

/** Trains two steps from a model, and returns the LoRA's tensors. */
async function loraFrom(t: TestContext, write: (folder: string) => Promise<string>) {
  const options = await place(t)
  const { path } = await run({ ...options, model: await write(options.folder), steps: 2, seed: 3 })
  return tensors(path)
}

test('a small model trains to the same LoRA from a folder, a safetensors file and both kinds of pickles', async (t) => {
  const model = smallModel('sd1')
  const single = [...singleFileTensors('sd1', model), ...leftovers()]
  const put = (name: string, write: (path: string) => Promise<void>) => async (folder: string) => {
    await write(join(folder, name))
    return join(folder, name)
  }
  const expected = await loraFrom(
    t,
    put('model', (path) => writeFolder(path, model)),
  )
  const files: [name: string, write: (path: string) => Promise<void>][] = [
    ['a.safetensors', (path) => writeRaw(path, single)],
    ['a.ckpt', (path) => writeFile(path, torchZip(single))],
    ['a.pt', (path) => writeFile(path, torchLegacy(single))],
  ]
  for (const [name, write] of files) assert.deepEqual(await loraFrom(t, put(name, write)), expected, name)
})

test('a training from a folder resumes from one file of the same weights, and from a pickle of them, to the same bits', async (t) => {
  const given = { ...(await place(t)), steps: 4, seed: 3, textEncoderLr: 1e-3 }
  const model = smallModel('sdxl')
  const folder = join(given.folder, 'folder')
  await writeLayouts(given.folder, model, singleFileTensors('sdxl', model))
  const [file, pickle] = [join(given.folder, 'a.safetensors'), join(given.folder, 'a.ckpt')]
  const whole = await run({ ...given, output: `${given.output}-whole`, model: folder })
  await trainUntil({ ...given, model: folder }, 1)
  await trainUntil({ ...given, model: file, resume: true }, 2)
  const last = await run({ ...given, model: pickle, resume: true })
  assert.deepEqual(await tensors(last.path), await tensors(whole.path))
  assert.deepEqual(await tensors(last.statePath), await tensors(whole.statePath))
})

/** The same tensor in 8 bits: bytes that are no NaN, made from its own. */
function inEight(tensor: RawTensor, dtype: 'F8_E4M3' | 'F8_E5M2'): RawTensor {
  const halves = new Uint16Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength / 2)
  // The upper byte of an f16 is an E5M2; an E4M3 of the same size has a smaller exponent and one bit more.
  const data = Uint8Array.from(halves, (half) => {
    const magnitude = half & 0x7fff
    const four = Math.max(0, (magnitude >> 7) - (8 << 3))
    return dtype === 'F8_E5M2' ? half >> 8 : ((half >> 8) & 0x80) | Math.min(four, 0x7e)
  })
  return { ...tensor, dtype, data }
}

test('weights of 8 bits train as the same numbers in f16 do', async (t) => {
  for (const dtype of ['F8_E4M3', 'F8_E5M2'] as const) {
    const eight = singleFileTensors('sd1', smallModel('sd1')).map((tensor) =>
      tensor.name.startsWith('model.') ? inEight(tensor, dtype) : tensor,
    )
    const wide = eight.map((tensor) => {
      if (tensor.dtype !== dtype) return tensor
      return { ...tensor, dtype: 'F16', data: narrow(widen(tensor.data as Uint8Array, dtype), 'F16') }
    })
    const from = (list: RawTensor[]) =>
      loraFrom(t, async (folder) => {
        await writeRaw(join(folder, 'a.safetensors'), list)
        return join(folder, 'a.safetensors')
      })
    const lora = await from(eight)
    assert.ok(lora.some(([name, { data }]) => name.endsWith('lora_up.weight') && data.some((value) => value !== 0)))
    assert.deepEqual(lora, await from(wide), dtype)
  }
})
