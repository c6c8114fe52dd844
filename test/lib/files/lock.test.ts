import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, stat, symlink, unlink, utimes, writeFile } from 'node:fs/promises'
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

/** Gives a file the time of so many seconds ago. */
async function written(path: string, seconds: number): Promise<void> {
  const past = Date.now() / 1000 - seconds
  await utimes(path, past, past)
}

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

test('a holder that cannot be seen is dead when it has not written for two minutes', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  await (await Lock.take(path, 'test')).release()
  const lock = await Lock.take(path, 'test')
  const { space, ...known } = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
  await lock.release()
  assert.equal(typeof space, 'string')
  for (const text of ['', '{', 'null', JSON.stringify({ ...known, host: 'elsewhere', space: 'other' })]) {
    await writeFile(path, text)
    for (const seconds of [0, 100]) {
      await written(path, seconds)
      const who = text.includes('elsewhere') ? 'process \\d+ on elsewhere' : 'another process'
      const message = new RegExp(`one that may still run, of ${who} \\(${path}\\); if it does not, delete this file or wait 2 minutes; `)
      await assert.rejects(Lock.take(path, 'test'), { ...held, message })
    }
    await written(path, 130)
    await (await Lock.take(path, 'test')).release()
  }
})

test('where the system tells nothing of processes, no holder counts as seen', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  // A process in which nothing of /proc can be read.
  const code = `import fs from 'node:fs'
    import { syncBuiltinESMExports } from 'node:module'
    for (const name of ['readFileSync', 'readlinkSync']) {
      const real = fs[name]
      fs[name] = (path, ...rest) => {
        if (String(path).startsWith('/proc')) throw new Error('hidden')
        return real(path, ...rest)
      }
    }
    syncBuiltinESMExports()
    const { Lock } = await import(${JSON.stringify(lockPath)})
    await Lock.take(process.argv[1], 'test')
    await Lock.take(process.argv[1], 'test').catch(({ message }) => console.log(message))
    process.exit()`
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code, path], { encoding: 'utf8' })
  assert.match(stdout, /^Expected no other test but received one that may still run, of process \d+ on /)
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

test('what has the name of a lock but is none is refused, whatever it is', async (t) => {
  const folder = await temporaryFolder(t)
  const taken = (name: string) => Lock.take(join(folder, name), 'test')
  await symlink('nowhere', join(folder, 'dangling'))
  await symlink('/dev/zero', join(folder, 'device'))
  assert.equal(spawnSync('mkfifo', [join(folder, 'pipe')]).status, 0)
  await mkdir(join(folder, 'folder'))
  await writeFile(join(folder, 'large'), 'x'.repeat(5000))
  for (const [name, what] of [
    ['dangling', 'a link'],
    ['device', 'a link'],
    ['pipe', 'a pipe'],
    ['folder', 'a folder'],
    ['large', 'a larger file'],
  ] as const) {
    const message = `Expected a lock or nothing at ${join(folder, name)} but received ${what}; move it elsewhere`
    await assert.rejects(taken(name), { code: 'OUTPUT_NOT_WRITABLE', message })
  }
  assert.equal((await readdir(folder)).length, 5)
})

test('a turn that a dead process left is removed, or it is said why not', async (t) => {
  const path = join(await temporaryFolder(t), 'x.lock')
  const turn = `${path}.tmp-0`
  const dead = async () => {
    await writeFile(path, '')
    await written(path, 200)
  }
  await dead()
  await mkdir(turn)
  await written(turn, 60)
  await (await Lock.take(path, 'test')).release()
  await dead()
  await mkdir(turn)
  await writeFile(join(turn, 'mine'), '')
  await written(turn, 60)
  const full = `Expected to be able to remove ${turn} but received the error ENOTEMPTY`
  await assert.rejects(Lock.take(path, 'test'), { code: 'OUTPUT_NOT_WRITABLE', message: full })
  await unlink(join(turn, 'mine'))
  // Another has it.
  await written(turn, 0)
  const stopped = assert.rejects(Lock.take(path, 'test', AbortSignal.timeout(50)), { name: 'AbortError', message: 'The test was stopped' })
  await stopped
  await written(turn, 60)
  await (await Lock.take(path, 'test')).release()
  await dead()
  await writeFile(turn, '')
  await assert.rejects(Lock.take(path, 'test'), { code: 'OUTPUT_NOT_WRITABLE', message: /but received a file; move it elsewhere$/ })
})

test('a lock that cannot be written whole is an error and leaves nothing', async (t) => {
  const folder = await temporaryFolder(t)
  const code = `import(${JSON.stringify(lockPath)}).then(({ Lock }) => Lock.take(process.argv[1], 'test'))
    .then(() => console.log('taken'), ({ code }) => console.log(code))`
  for (const bytes of [0, 50]) {
    const words = [`--fsize=${bytes}`, process.execPath, '-e', code, join(folder, 'x.lock')]
    const { stdout } = spawnSync('prlimit', words, { encoding: 'utf8' })
    assert.equal(stdout, 'DISK_FULL\n')
    assert.deepEqual(await readdir(folder), [])
  }
})

test('the holder writes its lock again and again, and notices when it has lost it', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const path = join(await temporaryFolder(t), 'x.lock')
  const lock = await Lock.take(path, 'test')
  const text = await readFile(path, 'utf8')
  for (let beat = 0; beat < 3; beat++) {
    await written(path, 1000)
    // The beat before may still be synced.
    for (let i = 0; i < 1000 && Date.now() - (await stat(path)).mtimeMs > 900_000; i++) {
      t.mock.timers.tick(5000)
      await setTimeout(2)
    }
    assert.ok(Date.now() - (await stat(path)).mtimeMs < 900_000)
    assert.equal(await readFile(path, 'utf8'), text)
  }
  await lock.check()
  await unlink(path)
  await assert.rejects(lock.check(), { ...held, message: /^Expected this test to have its lock .* but received none; / })
  const other = await Lock.take(path, 'test')
  await assert.rejects(lock.check(), { ...held, message: /but received another's; / })
  await lock.release()
  await other.check()
  await other.release()
})
