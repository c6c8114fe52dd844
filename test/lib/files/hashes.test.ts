import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { hashFiles, hashTensors, legacyHash } from '../../../lib/files/hashes.js'
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
    const hashes = hashTensors(packTensors(tensors), { 'modelspec.title': 'x', ss_seed: '1', sshs_model_hash: '' })
    assert.equal(hashes.model, createHash('sha256').update(bytes.subarray(dataStart)).digest('hex'))
    assert.equal(hashes.legacy, createHash('sha256').update(bytes.subarray(0x100000, 0x110000)).digest('hex').slice(0, 8))
    assert.equal(hashes.legacy, await legacyHash(path))
    assert.equal(await hashFiles([path]), createHash('sha256').update(bytes).digest('hex'))
    assert.equal(await hashFiles([path, path]), createHash('sha256').update(bytes).update(bytes).digest('hex'))
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
