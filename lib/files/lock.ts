/** Locks: files that say who is at work, so that nobody else begins the same. */
import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { type FileHandle, mkdir, open, readFile, rm, rmdir, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { LorafuseError } from '../errors.js'
import { temporaryOf, writeError } from './atomic.js'
import { type Json, parseRecord } from './json.js'

/** How often the holder of a lock writes it again, for those who cannot see its process. */
const BEAT_MS = 5_000
/** After how long without a beat a holder that cannot be seen counts as dead. */
const DEAD_MS = 30_000
const TURN_MS = 10

/** A thread, and the time at which it started, as no two threads of a machine have both. */
interface Holder {
  host: string
  /** The machine's boot and the namespace of its process numbers: where both are the same, the holder's thread can be seen. */
  space: string
  process: number
  thread: number
  /** In ticks since the boot. */
  started: string
  /** Tells this lock from every other. */
  token: string
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
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
  const [state = '', ...fields] = read(`/proc/${process}/task/${thread}/stat`).split(') ').at(-1)!.split(' ')
  return 'ZX'.includes(state) ? '' : (fields[18] ?? '')
}

/** This thread; of a Worker it is another than the process's first. */
function self(): Holder {
  const thread = Number(target('/proc/thread-self').split('/').at(-1)) || process.pid
  const space = `${read('/proc/sys/kernel/random/boot_id')} ${target('/proc/self/ns/pid')}`
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
  if (space !== here.space || !Number.isSafeInteger(pid) || !Number.isSafeInteger(thread)) return undefined
  if (!exists(pid as number)) return false
  // Some systems hide the processes of other users.
  if (read(`/proc/${pid}/stat`) === '') return undefined
  return startOf(pid as number, thread as number) === started
}

/** The lock at a path: what it says, and how long ago it was written by the clock of its file system. */
async function inspect(path: string): Promise<{ text: string; age: number } | undefined> {
  const probe = temporaryOf(path)
  try {
    const clock = await open(probe, 'wx')
    const now = await clock.stat().finally(() => clock.close())
    const { mtimeMs, size } = await stat(path)
    return { text: size < 4096 ? await readFile(path, 'utf8') : '', age: now.mtimeMs - mtimeMs }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return undefined
  } finally {
    await rm(probe, { force: true })
  }
}

/**
 * Removes a lock whose holder is dead. Those who do so take turns and look again first, as otherwise the second of them would remove the new
 * lock of the first. Throws `OUTPUT_LOCKED` if the holder lives.
 */
async function removeDead(path: string, what: string, here: Holder): Promise<void> {
  const turn = `${path}.tmp-0`
  try {
    await mkdir(turn)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    const since = await stat(turn).catch(() => undefined)
    // It takes milliseconds, so whoever had the turn is dead.
    if (since && Date.now() - since.mtimeMs > DEAD_MS) await rmdir(turn).catch(() => undefined)
    else await setTimeout(TURN_MS)
    return
  }
  try {
    const found = await inspect(path)
    if (!found) return
    const holder = parseRecord(found.text) ?? {}
    // A lock that says nothing has only just been made, or its holder died then.
    if (runs(holder, here) ?? found.age < DEAD_MS) throw held(path, what, holder)
    await unlink(path)
  } finally {
    await rmdir(turn).catch(() => undefined)
  }
}

export class Lock {
  private readonly timer: NodeJS.Timeout

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
    private readonly text: string,
  ) {
    this.timer = setInterval(() => void file.write(text, 0).catch(() => undefined), BEAT_MS).unref()
  }

  /**
   * Takes the lock at a path, also from a holder that is dead. `what`: what runs under it, e.g. `training of lora in output`. Throws
   * `OUTPUT_LOCKED` if another holds it, and as `writeAtomically`.
   */
  static async take(path: string, what: string): Promise<Lock> {
    const holder = self()
    const text = JSON.stringify(holder)
    try {
      for (;;) {
        const file = await open(path, 'wx').catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'EEXIST') throw error
        })
        if (file) {
          await file.write(text, 0)
          return new Lock(path, file, text)
        }
        await removeDead(path, what, holder)
      }
    } catch (cause) {
      throw writeError(path, cause)
    }
  }

  /** Gives the lock back. */
  async release(): Promise<void> {
    clearInterval(this.timer)
    await this.file.close().catch(() => undefined)
    // Nobody else's, should this one have been taken for dead.
    if ((await readFile(this.path, 'utf8').catch(() => '')) === this.text) await unlink(this.path).catch(() => undefined)
  }
}

function held(path: string, what: string, { host, process: pid }: Json): LorafuseError {
  const who = typeof host === 'string' && Number.isSafeInteger(pid) ? `process ${pid} on ${host.slice(0, 64)}` : 'another process'
  const advice = 'wait for it, stop it, or choose another name or folder'
  return new LorafuseError('OUTPUT_LOCKED', `Expected no other ${what} but received one that runs, of ${who} (${path}); ${advice}`)
}
