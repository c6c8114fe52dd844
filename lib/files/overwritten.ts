/** Finds files that are written to while they are mapped. One that is removed, or replaced by another, stays mapped as it was. */
import { stat } from 'node:fs/promises'

const stampOf = async (path: string) => {
  const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true })
  return { file: `${dev} ${ino}`, content: `${size} ${mtimeNs}` }
}

/** Returns a function that finds the first of these files that has been written to since now. */
export async function overwrittenSince(paths: string[]): Promise<() => Promise<string | undefined>> {
  const stamps = await Promise.all(paths.map(async (path) => ({ path, before: await stampOf(path).catch(() => undefined) })))
  return async () => {
    for (const { path, before } of stamps) {
      const now = await stampOf(path).catch(() => undefined)
      if (now && now.file === before?.file && now.content !== before.content) return path
    }
    return undefined
  }
}
