import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { narrow } from '../../../lib/files/floats.js'
import { hashFiles, hashParts, hashTensors, legacyHash } from '../../../lib/files/hashes.js'
import { type NamedTensor, packTensors, readHeader, writeSafetensors } from '../../../lib/files/safetensors.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('hashes of tensors are those of the file with only ss_ metadata', async (t) => {
  const folder = await temporaryFolder(t)
  for (const length of [10, 300_000]) {
    const tensors: NamedTensor[] = [
      { name: 'a', dtype: 'F32', shape: [length], data: Float32Array.from({ length }, (_, i) => Math.sin(i)) },
      { name: 'b', dtype: 'F16', shape: [length], data: Float32Array.from({ length }, (_, i) => Math.cos(i)) },
    ]
    const path = join(folder, `${length}`)
    await writeSafetensors(path, tensors, { ss_seed: '1' })
    const bytes = await readFile(path)
    const { dataStart } = await readHeader(path)
    const hashes = await hashTensors(await packTensors(tensors), { 'modelspec.title': 'x', ss_seed: '1', sshs_model_hash: '' })
    assert.equal(hashes.model, createHash('sha256').update(bytes.subarray(dataStart)).digest('hex'))
    assert.equal(hashes.legacy, createHash('sha256').update(bytes.subarray(0x100000, 0x110000)).digest('hex').slice(0, 8))
    assert.equal(hashes.legacy, await legacyHash(path))
    assert.equal(await hashFiles([path]), createHash('sha256').update(bytes).digest('hex'))
    assert.equal(await hashFiles([path, path]), createHash('sha256').update(bytes).update(bytes).digest('hex'))
  }
})

test('large arrays are hashed, and rounded, in pieces to the same bytes', async () => {
  const data = Float32Array.from({ length: 600_000 }, (_, i) => Math.sin(i))
  let turns = 0
  const turn = async () => void turns++
  const expected = createHash('sha256').update('é').update(data.subarray(1)).digest('hex')
  assert.equal(await hashParts(['é', data.subarray(1)], turn), expected)
  // The text, and 2.3 MiB.
  assert.equal(turns, 4)
  for (const dtype of ['F16', 'BF16'] as const) {
    turns = 0
    const tensors = ['a', 'b'].map((name) => ({ name, dtype, shape: [data.length], data }))
    // The room takes one of them.
    const packed = await packTensors(tensors, new Uint16Array(700_000), turn)
    for (const bytes of packed.data) assert.deepEqual(bytes, narrow(data, dtype))
    assert.equal(turns, 2 * Math.ceil(data.length / 16384))
  }
})

test('a file that cannot be read is named, and a signal stops the reading with its reason', async (t) => {
  const path = join(await temporaryFolder(t), 'x')
  const message = `Expected a weight file at ${path} but received nothing of that name`
  await assert.rejects(hashFiles([path]), { code: 'FILE_NOT_FOUND', message })
  await assert.rejects(hashFiles(['/dev/zero']), { code: 'FILE_UNREADABLE', message: /received a device$/ })
  await writeFile(path, new Uint8Array(2 ** 24))
  const controller = new AbortController()
  const hashing = hashFiles([path], { signal: controller.signal })
  controller.abort(new RangeError('mine'))
  await assert.rejects(hashing, RangeError)
})
