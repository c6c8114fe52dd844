/** Folders, and files that are there whole or not at all. */
import { type FileHandle, mkdir, open, rename, stat, unlink, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LorafuseError } from '../errors.js'

/** Makes a folder and its parents, and returns those that it made, parents first. Trap: Node's recursive mkdir never returns below a folder that takes no new ones, such as /proc. */
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

let written = 0

/**
 * Writes a file so that readers, and a crash, see either the old file or the whole new one: writes and syncs a temporary file beside it,
 * renames it, syncs the folder. Removes the temporary file on failure. Throws `DISK_FULL`, `OUTPUT_NOT_WRITABLE`.
 */
export async function writeAtomically(path: string, content: Uint8Array | string | Iterable<Uint8Array>): Promise<void> {
  written += 1
  const temporary = `${path}.tmp-${process.pid}-${written}`
  let file: FileHandle | undefined
  try {
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
  const folder = await open(dirname(path), 'r')
  await folder.sync().catch(() => undefined)
  await folder.close()
}

function writeError(path: string, cause: unknown): unknown {
  const { code } = cause as NodeJS.ErrnoException
  if (cause instanceof LorafuseError || code === undefined) return cause
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') {
    return new LorafuseError('DISK_FULL', `Expected room for ${path} but the disk is full (${code}); free some space and resume`, { cause })
  }
  return new LorafuseError('OUTPUT_NOT_WRITABLE', `Expected to be able to write ${path} but received ${code}`, { cause })
}
