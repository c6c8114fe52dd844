import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { lazyHashes } from '../../../lib/models/model.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('hashes of weights are computed once, and anew after a failure or a signal', async (t) => {
  const path = join(await temporaryFolder(t), 'weights')
  const { hash, legacyHash } = lazyHashes([path])
  for (const compute of [hash, legacyHash]) await assert.rejects(compute(), { code: 'FILE_NOT_FOUND' })
  await writeFile(path, 'weights')
  await assert.rejects(hash(AbortSignal.abort(new Error('enough'))), /enough/)
  const expected = createHash('sha256').update('weights').digest('hex')
  const [one, other] = [hash(), hash(AbortSignal.abort())]
  assert.equal(one, other)
  assert.equal(await one, expected)
  assert.equal(await legacyHash(), createHash('sha256').digest('hex').slice(0, 8))
  await writeFile(path, 'others')
  assert.equal(await hash(), expected)
})
