/**
 * The cache on disk, laid out as Python's huggingface_hub does (its `file_download.py`), so that both share it:
 * `models--owner--name/blobs/<etag>`, `snapshots/<commit>/<path>` as relative links to them, `refs/<revision>` with the commit.
 */
import { copyFile, link, readdir, rename, rm, stat, symlink, unlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { makeFolder, temporaryOf, writeAtomically, writeError } from '../../files/atomic.js'
import { pathError, readText, unlessMissing } from '../../files/read.js'

/** The name of a commit. */
export const COMMIT = /^[0-9a-f]{40}$/
const MOST_REF_BYTES = 256

/** A file of a repository, as the Hub lists it. */
export interface HubFile {
  path: string
  size: number
  /** The name of its blob: the sha256 of large files, git's sha1 of others. */
  etag: string
}

/** The size of the file at a path, links followed; undefined if there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined)
  return found?.isFile() ? found.size : undefined
}

/** One repository in the cache. */
export class CachedRepository {
  readonly folder: string
  /** The folder of locks, beside Python's own. */
  readonly locks: string

  constructor(cache: string, repository: string) {
    const name = ['models', ...repository.split('/')].join('--')
    this.folder = join(cache, name)
    this.locks = join(cache, '.locks', name)
  }

  blob(etag: string): string {
    return join(this.folder, 'blobs', etag)
  }

  snapshot(commit: string): string {
    return join(this.folder, 'snapshots', commit)
  }

  /** Returns the commit that a revision is known to be; undefined if that is not known. Throws as `readText`. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (COMMIT.test(revision)) return revision
    const text = await unlessMissing(readText(join(this.folder, 'refs', revision), 'a commit', MOST_REF_BYTES)).catch((error: unknown) => {
      // A branch `a` where there is `a/b`, or no text at all: nothing is known.
      if (error instanceof TypeError || (error as { code?: string }).code === 'FILE_UNREADABLE') return undefined
      throw error
    })
    const commit = text?.trim() ?? ''
    return COMMIT.test(commit) ? commit : undefined
  }

  /** Lists the files of a snapshot that are there as a whole, as paths in the repository. */
  async files(commit: string): Promise<string[]> {
    const folder = this.snapshot(commit)
    const names = await readdir(folder, { recursive: true }).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === 'ENOENT') return []
      throw pathError('a snapshot of the Hub', folder, cause)
    })
    const sizes = await Promise.all(names.map((name) => sizeOf(join(folder, name))))
    return names.filter((_, i) => sizes[i] !== undefined)
  }

  /**
   * Gives a blob its path in a snapshot. Where there are no symbolic links, the path is a hard link; where there are none of them either, a
   * blob that is new moves there and another is copied, as huggingface_hub does. Throws as `writeAtomically`.
   */
  async link(commit: string, { path, etag, size }: HubFile, isNew: boolean): Promise<void> {
    const pointer = join(this.snapshot(commit), path)
    const blob = this.blob(etag)
    if ((await sizeOf(pointer)) === size) return
    const temporary = temporaryOf(pointer)
    try {
      await makeFolder(dirname(pointer))
      // File systems without links refuse them in many words; where nothing can be written what follows says so.
      const isLink = await symlink(relative(dirname(pointer), blob), temporary)
        .catch(() => link(blob, temporary))
        .then(
          () => true,
          () => false,
        )
      if (!isLink && isNew) return await rename(blob, pointer)
      if (!isLink) await copyFile(blob, temporary)
      await rename(temporary, pointer)
    } catch (cause) {
      await unlink(temporary).catch(() => undefined)
      throw writeError(pointer, cause)
    }
  }

  /** Removes a file's blob and its path in a snapshot. Throws as `writeAtomically`. */
  async discard(commit: string, { path, etag }: HubFile): Promise<void> {
    for (const place of [join(this.snapshot(commit), path), this.blob(etag)]) {
      await rm(place, { force: true }).catch((cause: unknown) => Promise.reject(writeError(place, cause)))
    }
  }

  /** Notes which commit a revision is. */
  async note(revision: string, commit: string): Promise<void> {
    if (revision === commit || (await this.commitOf(revision)) === commit) return
    const path = join(this.folder, 'refs', revision)
    try {
      await makeFolder(dirname(path))
    } catch (cause) {
      throw writeError(path, cause)
    }
    await writeAtomically(path, commit)
  }

  /** Whether a blob is there as a whole. */
  async has(etag: string, size: number): Promise<boolean> {
    return (await sizeOf(this.blob(etag))) === size
  }
}
