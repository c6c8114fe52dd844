import assert from 'node:assert/strict'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { listEntries } from '../../../lib/files/read.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

test('a folder lists its folders, links followed, and everything else, both in order', async (t) => {
  const folder = await temporaryFolder(t)
  for (const name of ['b', 'a', 'C']) await writeFile(join(folder, name), '')
  await mkdir(join(folder, 'sub'))
  await symlink('sub', join(folder, 'link'))
  await symlink('a', join(folder, 'to a'))
  await symlink('none', join(folder, 'broken'))
  await symlink('loop', join(folder, 'loop'))
  assert.deepEqual(await listEntries(folder, 'a folder'), { files: ['C', 'a', 'b', 'broken', 'loop', 'to a'], folders: ['link', 'sub'] })
})

test('what cannot be listed is told by a code', async (t) => {
  const folder = await temporaryFolder(t)
  await writeFile(join(folder, 'file'), '')
  await symlink('loop', join(folder, 'loop'))
  const listing = (name: string) => listEntries(join(folder, name), 'a folder of images')
  await assert.rejects(listing('none'), {
    code: 'FILE_NOT_FOUND',
    message: /^Expected a folder of images at .*none but received nothing of that name$/,
  })
  await assert.rejects(listing('file'), { code: 'FILE_NOT_FOUND' })
  await assert.rejects(listing('loop'), { code: 'FILE_UNREADABLE', message: /circle/ })
})
