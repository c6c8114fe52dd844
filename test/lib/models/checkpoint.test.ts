import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { readCheckpoint, readPart } from '../../../lib/models/checkpoint.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

// A regular file that opens, and whose first bytes cannot be read (EIO), as those of a broken disk.
const BROKEN = '/proc/self/mem'

test('a file that opens but cannot be read ends in a sentence with a code', async () => {
  const error = { name: 'LorafuseError', code: 'FILE_UNREADABLE', message: `Expected a checkpoint at ${BROKEN} but received the error EIO` }
  await assert.rejects(readCheckpoint(BROKEN, 'a checkpoint'), error)
  await assert.rejects(readPart(BROKEN, 'a checkpoint', 0, 8), error)
})

test('a part of a file is what lies there, up to its end', async (t) => {
  const path = join(await temporaryFolder(t), 'file')
  await writeFile(path, Uint8Array.of(1, 2, 3, 4))
  assert.deepEqual([...(await readPart(path, 'a file', 1, 2))], [2, 3])
  assert.deepEqual([...(await readPart(path, 'a file', 3, 9))], [4])
})
