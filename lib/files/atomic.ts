/** Folders, and files that are there whole or not at all. */
import { randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, rename, stat, unlink, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LorafuseError } from '../errors.js'
import { kindOf, pathError, reasonOf } from './read.js'

/**
 * Makes a folder and its parents, and returns those that it made, parents first. Trap: Node's recursive mkdir never returns below a folder
 * that takes no new ones, such as /proc.
 */
export async function makeFolder(path: string): Promise<string[]> {
  try {
    await mkdir(path)
    return [path]
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return []
    const parent = dirname(path)
    if (code !== 'ENOENT' || (await stat(parent).catch(() => undefined))) throw error
    return [...(await makeFolder(parent)), ...(await makeFolder(path))]
  }
}

/** What a system's error means where something is to be written, if that is not what it means elsewhere. */
const REASONS: Record<string, string> = {
  EACCES: 'no right to write there',
  EPERM: 'no right to write there',
  EROFS: 'a file system that is read-only',
  ENOENT: 'a folder that is gone',
  EEXIST: 'a file of that name',
}
const FULL = ['ENOSPC', 'EDQUOT', 'EFBIG']
/** Says nothing about the place. */
const EXHAUSTED = ['EMFILE', 'ENFILE', 'ENOMEM']

/** The error of something that the system does not write; others stay as they are. `what`: what was expected. */
export function writeError(path: string, cause: unknown, what = 'to be able to write'): unknown {
  const { code } = cause as NodeJS.ErrnoException
  if (cause instanceof LorafuseError || code === undefined) return cause
  if (FULL.includes(code)) {
    return new LorafuseError('DISK_FULL', `Expected room for ${path} but the disk is full (${code}); free some space`, { cause })
  }
  if (EXHAUSTED.includes(code)) return pathError('a file to be written', path, cause)
  return new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected ${what} ${path} but received ${REASONS[code] ?? reasonOf(code)}`, {
    cause,
  })
}

/** Ends the names of files that are being written, of which no two are the same, whatever thread or process makes them. */
const TEMPORARY = /\.tmp-[\da-f-]+$/

/** Returns what a file is written to before it gets its name. */
export function temporaryOf(path: string): string {
  return `${path}.tmp-${randomBytes(6).toString('hex')}`
}

/** Returns the name that a temporary file was to get; undefined for any other file. */
export function targetOf(temporary: string): string | undefined {
  return TEMPORARY.test(temporary) ? temporary.replace(TEMPORARY, '') : undefined
}

/** A device such as /dev/null, a pipe or a folder is not to be replaced by a file. */
async function checkReplaceable(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined)
  if (!found || found.isFile()) return
  throw new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected to be able to write a file ${path} but received ${kindOf(found)} of that name`)
}

/** Syncs the names in a folder. One that cannot be synced may lose the last of them in a power failure, no more. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r').catch(() => undefined)
  await folder?.sync().catch(() => undefined)
  await folder?.close()
}

/**
 * Writes a file so that readers, and a crash, see either the old file or the whole new one: writes and syncs a temporary file beside it,
 * renames it, syncs the folder. Removes the temporary file on failure. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, `TOO_MANY_FILES`,
 * `OUT_OF_MEMORY`.
 */
export async function writeAtomically(path: string, content: Uint8Array | string | Iterable<Uint8Array>): Promise<void> {
  const temporary = temporaryOf(path)
  let file: FileHandle | undefined
  try {
    await checkReplaceable(path)
    file = await open(temporary, 'wx')
    await writeFile(file, content)
    await file.sync()
    await file.close()
    await rename(temporary, path)
  } catch (cause) {
    await file?.close().catch(() => undefined)
    if (file) await unlink(temporary).catch(() => undefined)
    throw writeError(path, cause)
  }
  await syncFolder(dirname(path))
}
