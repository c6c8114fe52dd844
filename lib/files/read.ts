/** Opens what a user names, the only way from a user's path to bytes, and reads what the system tells. */
import { constants, readFileSync, type Stats } from 'node:fs'
import { type FileHandle, open, opendir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { LorafuseError } from '../errors.js'
import { sortInTurns } from '../turns.js'

const missing = { code: 'FILE_NOT_FOUND' }
const unreadable = { code: 'FILE_UNREADABLE' }
const exhausted = { code: 'TOO_MANY_FILES' }

/** What a system's error means, and its code here. */
const REASONS: Record<string, { code: string; reason: string }> = {
  ENOENT: { ...missing, reason: 'nothing of that name' },
  ENOTDIR: { ...missing, reason: 'a path that leads through a file' },
  ENAMETOOLONG: { ...missing, reason: 'a name that is too long' },
  ELOOP: { ...unreadable, reason: 'links that lead in a circle' },
  EACCES: { ...unreadable, reason: 'no right to read it' },
  EPERM: { ...unreadable, reason: 'no right to read it' },
  EISDIR: { ...unreadable, reason: 'a folder' },
  EMFILE: { ...exhausted, reason: 'too many open files; raise the limit with ulimit -n' },
  ENOMEM: { code: 'OUT_OF_MEMORY', reason: 'too little memory; close other programs, or raise the limit' },
  // Node's own, for a path with a zero byte.
  ERR_INVALID_ARG_VALUE: { ...missing, reason: 'a name that no file can have' },
  ENFILE: { ...exhausted, reason: 'too many open files on this machine; close other programs' },
}

/** What a system's error means, in words. */
export function reasonOf(system: string): string {
  return REASONS[system]?.reason ?? `the error ${system}`
}

const MEBIBYTE = 2 ** 20

/** The error of a path that the system refuses; others stay as they are. `what`: what was expected, e.g. `a safetensors file`. */
export function pathError(what: string, path: string, cause: unknown): unknown {
  const { code: system } = cause as NodeJS.ErrnoException
  if (cause instanceof LorafuseError || system === undefined) return cause
  const { code } = REASONS[system] ?? unreadable
  return new LorafuseError(code, `Expected ${what} at ${path} but received ${reasonOf(system)}`, { cause })
}

/** Names the kind of what was found. */
export function kindOf(found: Stats): string {
  if (found.isDirectory()) return 'a folder'
  if (found.isFile()) return 'a file'
  if (found.isSymbolicLink()) return 'a link'
  if (found.isFIFO()) return 'a pipe'
  return found.isSocket() ? 'a socket' : 'a device'
}

function checkRegular(what: string, path: string, found: Stats): void {
  if (!found.isFile()) throw new LorafuseError(unreadable.code, `Expected ${what} at ${path} but received ${kindOf(found)}`)
}

/**
 * Opens a regular file to be read, following links. Neither a pipe nor a device is opened, so that nothing hangs.
 * Throws `FILE_NOT_FOUND`, `FILE_UNREADABLE`, `TOO_MANY_FILES`.
 */
export async function openFile(path: string, what: string): Promise<FileHandle> {
  let file: FileHandle | undefined
  try {
    checkRegular(what, path, await stat(path))
    // The path may name something else by now.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    checkRegular(what, path, await file.stat())
    return file
  } catch (cause) {
    await file?.close()
    throw pathError(what, path, cause)
  }
}

/** Reads `length` bytes at `offset`, fewer where the file ends before. */
export async function readRange(file: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  let done = 0
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, Math.min(length - done, 2 ** 30), offset + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return bytes.subarray(0, done)
}

/** Reads a whole file of at most `most` bytes. Throws as `openFile`, and `FILE_TOO_LARGE`. */
export async function readWhole(path: string, what: string, most: number): Promise<Uint8Array> {
  const file = await openFile(path, what)
  try {
    const { size } = await file.stat()
    if (size > most) {
      const [limit, found] = [most, size].map((bytes) => `${Math.ceil(bytes / MEBIBYTE)} MiB`)
      throw new LorafuseError('FILE_TOO_LARGE', `Expected ${what} of at most ${limit} at ${path} but received ${found}`)
    }
    return await readRange(file, 0, size)
  } catch (cause) {
    throw pathError(what, path, cause)
  } finally {
    await file.close()
  }
}

/** Reads a whole file as `readWhole`, as UTF-8. Throws `TypeError` for other bytes. */
export async function readText(path: string, what: string, most: number): Promise<string> {
  return new TextDecoder('utf-8', { fatal: true }).decode(await readWhole(path, what, most))
}

/** Lists a folder's names, sorted by code units. Throws `FILE_NOT_FOUND`, `FILE_UNREADABLE`, `TOO_MANY_FILES`. */
export async function listFolder(path: string, what: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort()
  } catch (cause) {
    throw pathError(what, path, cause)
  }
}

/** Lists the names of a folder's folders, links to folders included, and of everything else, sorted by code units. Throws as `listFolder`. */
export async function listEntries(path: string, what: string): Promise<{ files: string[]; folders: string[] }> {
  const [files, folders]: [string[], string[]] = [[], []]
  try {
    for await (const entry of await opendir(path, { bufferSize: 1024 })) {
      const { name } = entry
      const known = entry.isDirectory() || entry.isFile()
      const folder = known ? entry.isDirectory() : (await stat(join(path, name)).catch(() => undefined))?.isDirectory()
      if (folder) folders.push(name)
      else files.push(name)
    }
  } catch (cause) {
    throw pathError(what, path, cause)
  }
  return { files: await sortInTurns(files), folders: await sortInTurns(folders) }
}

/** Whether a path is that of a folder; undefined if there is nothing. Throws as `openFile` where the system does not say. */
export async function isFolder(path: string, what: string): Promise<boolean | undefined> {
  const found = stat(path).catch((cause: unknown) => Promise.reject(pathError(what, path, cause)))
  return (await unlessMissing(found))?.isDirectory()
}

/** Whether there is anything of this name. Throws as `isFolder`. */
export async function exists(path: string, what: string): Promise<boolean> {
  return (await isFolder(path, what)) !== undefined
}

/** Waits for what reads a file; undefined where there is none of that name. */
export async function unlessMissing<Result>(reading: Promise<Result>): Promise<Result | undefined> {
  return reading.catch((error: unknown) => {
    if (error instanceof LorafuseError && error.code === missing.code) return undefined
    throw error
  })
}

/** Reads a file of /proc or /sys; empty if there is none. */
export function readSystem(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
