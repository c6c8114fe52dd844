import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Lock } from '../../../lib/files/lock.js'
import { temporaryFolder } from '../../fixtures/temporary.js'

const lockPath = fileURLToPath(new URL('../../../lib/files/lock.js', import.meta.url))
const held = { code: 'OUTPUT_LOCKED' }

/** A program that takes the lock at its path, says so and stays. */
const holder = (path: string) => `import(${JSON.stringify(lockPath)})
  .then(({ Lock }) => Lock.take(${JSON.stringify(path)}, 'test'))
  .then(() => { console.log('taken'); setInterval(() => {}, 1000) })`

test('one holds a lock at a time, and leaves nothing', async (t) => {
  const folder = await temporaryFolder(t)
  const path = join(folder, 'x.lock')
  const lock = await Lock.take(path, 'training of x')
  await assert.rejects(Lock.take(path, 'training of x'), {
    ...held,
    message: new RegExp(`^Expected no other training of x but received one that runs, of process ${process.pid} on .* \\(${path}\\); wait`),
  })
  assert.deepEqual(await readdir(folder), ['x.lock'])
  await lock.release()
  assert.deepEqual(await readdir(folder), [])
  await (await Lock.take(path, 'training of x')).release()
})

test('the lock of a process that lives is kept, that of a dead one is taken over', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  const child = spawn(process.execPath, ['-e', holder(path)], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  await assert.rejects(Lock.take(path, 'test'), held)
  child.kill('SIGKILL')
  await once(child, 'exit')
  await (await Lock.take(path, 'test')).release()
})

test('the lock of a dead process for whose end nobody has asked is taken over', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  // Its parent becomes a program that never asks.
  const parent = spawn('bash', ['-c', '"$0" -e "$1" & exec sleep 60', process.execPath, holder(path)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.after(() => parent.kill('SIGKILL'))
  await once(parent.stdout, 'data')
  const { process: pid } = JSON.parse(await readFile(path, 'utf8')) as { process: number }
  process.kill(pid, 'SIGKILL')
  while (!(await readFile(`/proc/${pid}/stat`, 'utf8')).includes(') Z ')) await setTimeout(5)
  await (await Lock.take(path, 'test')).release()
})

test('the lock of a Worker that was terminated is taken over, though its process lives', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  const worker = new Worker(`${holder(path)}; 0`, { eval: true, stdout: true })
  await once(worker.stdout, 'data')
  await assert.rejects(Lock.take(path, 'test'), held)
  await worker.terminate()
  await (await Lock.take(path, 'test')).release()
})

test('a holder that cannot be seen is dead when it has not written for half a minute', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  await (await Lock.take(path, 'test')).release()
  const lock = await Lock.take(path, 'test')
  const { space, ...known } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
  await lock.release()
  assert.equal(typeof space, 'string')
  for (const text of ['', '{', 'null', JSON.stringify({ ...known, host: 'elsewhere', space: 'other' })]) {
    await writeFile(path, text)
    await assert.rejects(Lock.take(path, 'test'), { ...held, message: text.includes('elsewhere') ? /on elsewhere/ : /another process/ })
    const past = Date.now() / 1000 - 60
    await utimes(path, past, past)
    await (await Lock.take(path, 'test')).release()
  }
})

test('of many that find a dead one’s lock at once, one gets it', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  await writeFile(path, '')
  await utimes(path, 1, 1)
  const taken = await Promise.allSettled(Array.from({ length: 20 }, () => Lock.take(path, 'test')))
  const locks = taken.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  assert.equal(locks.length, 1)
  for (const each of taken) if (each.status === 'rejected') assert.equal(each.reason.code, 'OUTPUT_LOCKED')
  await locks[0]!.release()
})
