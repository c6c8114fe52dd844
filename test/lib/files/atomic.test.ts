import assert from 'node:assert/strict'
import { chmod, mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { writeAtomically } from '../../../lib/files/atomic.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('a file is replaced whole and no temporary is left', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'a')
  await writeAtomically(path, 'old')
  await writeAtomically(path, [Buffer.from('ne'), Buffer.from('w')])
  assert.equal(await readFile(path, 'utf8'), 'new')
  const failing = function* () {
    yield Buffer.from('half')
    throw new Error('interrupted')
  }
  await assert.rejects(writeAtomically(path, failing()), /interrupted/)
  assert.equal(await readFile(path, 'utf8'), 'new')
  assert.deepEqual(await readdir(folder), ['a'])
})

test('a place that cannot be written is named, and nothing is left there', async (t) => {
  const folder = await temporaryFolder(t)
  await mkdir(join(folder, 'taken'))
  for (const path of [join(folder, 'none/a'), join(folder, 'taken'), '/dev/null/a']) {
    await assert.rejects(writeAtomically(path, 'x'), { code: 'OUTPUT_NOT_WRITABLE', message: new RegExp(path) })
  }
  assert.deepEqual(await readdir(folder), ['taken'])
  if (process.getuid?.() === 0) return
  await chmod(folder, 0o500)
  await assert.rejects(writeAtomically(join(folder, 'a'), 'x'), { code: 'OUTPUT_NOT_WRITABLE' })
})
