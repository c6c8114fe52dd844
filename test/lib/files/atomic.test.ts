import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmod, mkdir, readdir, readFile, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { targetOf, temporaryOf, writeAtomically } from '../../../lib/files/atomic.js'
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

test('a pipe, a device, and links to them are not replaced', async (t) => {
  const folder = await temporaryFolder(t)
  const [pipe, link] = [join(folder, 'pipe'), join(folder, 'link')]
  execFileSync('mkfifo', [pipe])
  await symlink('/dev/null', link)
  for (const [path, kind] of [
    [pipe, 'a pipe'],
    [link, 'a device'],
  ] as const) {
    const message = `Expected to be able to write a file ${path} but received ${kind} of that name`
    await assert.rejects(writeAtomically(path, 'x'), { code: 'OUTPUT_NOT_WRITABLE', message })
  }
  assert.deepEqual((await readdir(folder)).sort(), ['link', 'pipe'])
})

test('a full disk, and too many open files, have their codes and sentences', async (t) => {
  const path = join(await temporaryFolder(t), 'x.png')
  for (const [system, code, message] of [
    ['ENOSPC', 'DISK_FULL', `Expected room for ${path} but the disk is full (ENOSPC); free some space`],
    [
      'EMFILE',
      'TOO_MANY_FILES',
      `Expected a file to be written at ${path} but received too many open files; raise the limit with ulimit -n`,
    ],
    [
      'ENOMEM',
      'OUT_OF_MEMORY',
      `Expected a file to be written at ${path} but received too little memory; close other programs, or raise the limit`,
    ],
    ['EROFS', 'OUTPUT_NOT_WRITABLE', `Expected to be able to write ${path} but received a file system that is read-only`],
    ['EXOTIC', 'OUTPUT_NOT_WRITABLE', `Expected to be able to write ${path} but received the error EXOTIC`],
  ] as const) {
    const failing = (function* (): Generator<Uint8Array> {
      yield Buffer.from('half')
      throw Object.assign(new Error(system), { code: system })
    })()
    await assert.rejects(writeAtomically(path, failing), { code, message })
  }
  assert.deepEqual(await readdir(join(path, '..')), [])
})

test('no two temporary names are the same, and each tells what it was to become', async (t) => {
  const path = join(await temporaryFolder(t), 'x.state')
  const names = new Set(Array.from({ length: 1000 }, () => temporaryOf(path)))
  assert.equal(names.size, 1000)
  for (const name of names) assert.equal(targetOf(name), path)
  assert.equal(targetOf(`${path}.tmp-12-3`), path)
  assert.deepEqual(['x.state', 'x.tmp-', 'x.tmp-name'].map(targetOf), [undefined, undefined, undefined])
})
