/** Locks: files that say who is at work, so that nobody else begins the same. */
import { randomUUID } from 'node:crypto'
import { readlinkSync, type Stats } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, rm, rmdir, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { cut, LorafuseError, throwIfAborted } from '../errors.js'
import { temporaryOf, writeError } from './atomic.js'
import { type Json, parseRecord } from './json.js'
import { kindOf, readSystem, readWhole, unlessMissing } from './read.js'

/** How often the holder of a lock writes it again, for those who cannot see its process. */
const BEAT_MS = 5_000
/** After how long without a beat a holder that cannot be seen counts as dead. NFS shows the time of a file up to a minute late. */
const DEAD_MS = 120_000
/** How often those who wait for their turn look again, after how long a turn counts as left by a dead one, and how often at most. */
const TURN_MS = 10
const TURN_DEAD_MS = 30_000
const MOST_ROUNDS = 6_000
/** A lock is shorter. */
const LONGEST = 4096

/** A thread, and the time at which it started, as no two threads of a machine have both. */
interface Holder {
  host: string
  /**
   * The machine's boot and the namespace of its process numbers: where both are the same, the holder's thread can be seen. Empty where the
   * system does not tell both.
   */
  space: string
  process: number
  thread: number
  /** In ticks since the boot. */
  started: string
  /** Tells this lock from every other. */
  token: string
}

function target(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

/**
 * Reads when a thread started; empty if it does not run, be it that nobody has asked for its end. These are fields 22 and 3 of /proc/…/stat;
 * the name, field 2, may hold anything.
 */
function startOf(process: number, thread: number): string {
  const [state = '', ...fields] = readSystem(`/proc/${process}/task/${thread}/stat`).split(') ').at(-1)!.split(' ')
  return 'ZX'.includes(state) ? '' : (fields[18] ?? '')
}

/** This thread; of a Worker it is another than the process's first. */
function self(): Holder {
  const thread = Number(target('/proc/thread-self').split('/').at(-1)) || process.pid
  const [boot, namespace] = [readSystem('/proc/sys/kernel/random/boot_id').trim(), target('/proc/self/ns/pid')]
  const space = boot && namespace ? `${boot} ${namespace}` : ''
  return { host: hostname(), space, process: process.pid, thread, started: startOf(process.pid, thread), token: randomUUID() }
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Whether the thread that holds a lock still runs; undefined if that cannot be seen from here. */
function runs({ space, process: pid, thread, started }: Json, here: Holder): boolean | undefined {
  if (here.space === '' || space !== here.space || !Number.isSafeInteger(pid) || !Number.isSafeInteger(thread)) return undefined
  if (!exists(pid as number)) return false
  // Some systems hide the processes of other users.
  if (readSystem(`/proc/${pid}/stat`) === '') return undefined
  return startOf(pid as number, thread as number) === started
}

/** Reads the text of a lock; undefined if there is none. */
async function readLock(path: string): Promise<string | undefined> {
  const bytes = await unlessMissing(readWhole(path, 'a lock', LONGEST))
  return bytes && Buffer.from(bytes).toString()
}

/** What is at a path, and how long ago it was written by the clock of its file system; undefined if there is nothing. Follows no link. */
async function inspect(path: string): Promise<{ found: Stats; age: number } | undefined> {
  const probe = temporaryOf(path)
  try {
    const clock = await open(probe, 'wx')
    const now = await clock.stat().finally(() => clock.close())
    const found = await lstat(path)
    return { found, age: now.mtimeMs - found.mtimeMs }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return undefined
  } finally {
    await rm(probe, { force: true })
  }
}

/** What has the name of something of ours but is not. */
function foreign(what: string, path: string, received: string): LorafuseError {
  return new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected ${what} or nothing at ${path} but received ${received}; move it elsewhere`)
}

/** Takes the turn to look at a lock that is there; false if another has it. What a dead one left is removed. */
async function takeTurn(turn: string): Promise<boolean> {
  try {
    await mkdir(turn)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
  const there = await inspect(turn)
  if (!there) return false
  if (!there.found.isDirectory()) throw foreign('an empty folder', turn, kindOf(there.found))
  // It takes milliseconds.
  if (there.age <= TURN_DEAD_MS) await setTimeout(TURN_MS)
  else
    await rmdir(turn).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'ENOENT') throw writeError(turn, cause, 'to be able to remove')
    })
  return false
}

/**
 * Removes a lock whose holder is dead. Those who do so take turns and look again first, as otherwise the second of them would remove the new
 * lock of the first. Throws `OUTPUT_LOCKED` if the holder lives, or may live.
 */
async function removeDead(path: string, what: string, here: Holder): Promise<void> {
  const turn = `${path}.tmp-0`
  if (!(await takeTurn(turn))) return
  try {
    const there = await inspect(path)
    if (!there) return
    const { found, age } = there
    if (!found.isFile()) throw foreign('a lock', path, kindOf(found))
    if (found.size > LONGEST) throw foreign('a lock', path, 'a larger file')
    const text = await readLock(path)
    if (text === undefined) return
    const holder = parseRecord(text) ?? {}
    const seen = runs(holder, here)
    // A lock that says nothing has only just been made, or its holder died then.
    if (seen ?? age < DEAD_MS) throw held(path, what, holder, seen)
    await unlink(path)
  } finally {
    await rmdir(turn).catch(() => undefined)
  }
}

export class Lock {
  private readonly timer: NodeJS.Timeout
  private beating: Promise<void> | undefined

  private constructor(
    private readonly path: string,
    private readonly what: string,
    private readonly file: FileHandle,
    private readonly text: string,
  ) {
    this.timer = setInterval(() => {
      this.beating ??= this.beat().finally(() => (this.beating = undefined))
    }, BEAT_MS).unref()
  }

  /**
   * Takes the lock at a path, also from a holder that is dead. `what`: what runs under it, e.g. `training of lora in output`. Throws
   * `OUTPUT_LOCKED` if another holds it, and as `writeAtomically`; an `AbortError` once `signal` aborts.
   */
  static async take(path: string, what: string, signal?: AbortSignal): Promise<Lock> {
    const holder = self()
    const text = JSON.stringify(holder)
    try {
      for (let round = 0; round < MOST_ROUNDS; round++) {
        throwIfAborted(signal, `The ${what}`)
        const file = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'EEXIST') throw error
        })
        if (file) return new Lock(path, what, await written(path, file, text), text)
        await removeDead(path, what, holder)
      }
    } catch (cause) {
      throw writeError(path, cause)
    }
    throw held(path, what, {}, undefined)
  }

  /** Throws `OUTPUT_LOCKED` if this lock has been taken for a dead one's, or was removed; as `readWhole` if it cannot be read. */
  async check(): Promise<void> {
    const found = await readLock(this.path)
    if (found === this.text) return
    const received = found === undefined ? 'none' : "another's"
    throw new LorafuseError(
      'OUTPUT_LOCKED',
      `Expected this ${this.what} to have its lock ${this.path} but received ${received}; nothing more is saved, as another may save there`,
    )
  }

  /** Gives the lock back. */
  async release(): Promise<void> {
    clearInterval(this.timer)
    await this.beating
    await this.file.close().catch(() => undefined)
    // Nobody else's, should this one have been taken for dead.
    if ((await readLock(this.path).catch(() => undefined)) === this.text) await unlink(this.path).catch(() => undefined)
  }

  /** Synced, as other machines see no earlier what is written. */
  private async beat(): Promise<void> {
    try {
      await this.file.write(this.text, 0)
      await this.file.datasync()
    } catch {}
  }
}

/** Writes a new lock, all of it, or removes it. */
async function written(path: string, file: FileHandle, text: string): Promise<FileHandle> {
  try {
    await file.writeFile(text)
    await file.datasync()
    return file
  } catch (cause) {
    await file.close().catch(() => undefined)
    await unlink(path).catch(() => undefined)
    throw cause
  }
}

/** `seen`: whether the holder was seen to run, or cannot be seen. */
function held(path: string, what: string, { host, process: pid }: Json, seen: boolean | undefined): LorafuseError {
  const who = typeof host === 'string' && Number.isSafeInteger(pid) ? `process ${pid} on ${cut(host, 64)}` : 'another process'
  const [runs, advice] = seen
    ? ['runs', 'wait for it, stop it']
    : ['may still run', `if it does not, delete this file or wait ${DEAD_MS / 60_000} minutes; otherwise wait for it, stop it`]
  return new LorafuseError(
    'OUTPUT_LOCKED',
    `Expected no other ${what} but received one that ${runs}, of ${who} (${path}); ${advice}, or choose another name or folder`,
  )
}
