/** Tells from how a file stands on the disk whether it was written to or replaced. */
import { stat } from 'node:fs/promises'

export interface Stamp {
  /** Another once the path leads to another file. */
  file: string
  /** Another once the file is written to. */
  content: string
  /** Another once anything about the file changes. */
  change: bigint
}

/** Returns undefined where the system does not say. */
export async function stampOf(path: string): Promise<Stamp | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined)
  return found && { file: `${found.dev} ${found.ino}`, content: `${found.size} ${found.mtimeNs}`, change: found.ctimeNs }
}

/**
 * Returns a function that finds the first of these files that has been written to since now. One that is removed, or replaced by another, stays
 * mapped as it was.
 */
export async function overwrittenSince(paths: string[]): Promise<() => Promise<string | undefined>> {
  const stamps = await Promise.all(paths.map(async (path) => ({ path, before: await stampOf(path) })))
  return async () => {
    for (const { path, before } of stamps) {
      const now = await stampOf(path)
      if (now && now.file === before?.file && now.content !== before.content) return path
    }
    return undefined
  }
}
