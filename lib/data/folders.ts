/** Which folders images are taken from, and what lies in them. */
import { opendir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { LorafuseError } from '../errors.js'
import { listEntries } from '../files/read.js'
import { turns } from '../turns.js'
import { CAPTION_EXTENSIONS, type Concept, captionExtension, conceptOf } from './captions.js'
import { isHidden, isImage, isSide, unsupportedName } from './formats.js'
import { counted, type Skipped, several } from './skipped.js'

/** A folder that images are taken from, and the names of what lies in it. */
export interface Source extends Concept {
  folder: string
  images: string[]
  /** Captions by their extension. */
  captions: string[]
}

const isPicture = (name: string) => isImage(name) || unsupportedName(name) !== undefined

/** How many names of folders that are not searched are looked at: the folder may be a whole home. */
const MOST_NAMES = 20_000

/** Counts the images in a folder and the folders below it; links to folders are not followed. `budget`: how many names may be looked at. */
async function countImages(folder: string, budget: { left: number }, signal: AbortSignal | undefined): Promise<number> {
  let count = 0
  const turn = turns(signal)
  for await (const entry of await opendir(folder, { bufferSize: 1024 })) {
    await turn()
    if (budget.left === 0) break
    budget.left -= 1
    if (isSide(entry.name)) continue
    if (entry.isDirectory()) count += await countImages(join(folder, entry.name), budget, signal).catch(() => 0)
    else if (isPicture(entry.name)) count += 1
  }
  return count
}

/** Finds what folders hold that are not searched. `empty`: report those without images, too. */
async function skippedFolders(
  folder: string,
  names: string[],
  expected: string,
  empty: boolean,
  signal: AbortSignal | undefined,
): Promise<Skipped[]> {
  const found: [name: string, note: string][] = []
  const budget = { left: MOST_NAMES }
  for (const name of names.filter((name) => !isSide(name))) {
    const count = await countImages(join(folder, name), budget, signal).catch((error: NodeJS.ErrnoException) => {
      if (error.code === undefined) throw error
    })
    signal?.throwIfAborted()
    const all = budget.left > 0
    const note = count === undefined ? 'cannot be read' : `${counted(count, 'image')}${all ? '' : ' or more'}`
    if (empty || count !== 0 || !all) found.push([name, ` (${note})`])
  }
  const [skipped, notes] = [found.map(([name]) => name), found.map(([, note]) => note)]
  const received = (count: number) => counted(count, 'folder')
  return several({ code: 'FOLDER_SKIPPED', folder, names: skipped, notes, expected, received })
}

/** Sorts a folder's files into images, captions and what is skipped. */
async function sortFiles(
  folder: string,
  concept: Concept,
  { files, folders }: { files: string[]; folders: string[] },
  extensions: string[],
  signal: AbortSignal | undefined,
): Promise<{ source: Source; skipped: Skipped[] }> {
  const turn = turns(signal)
  const source: Source = { folder, ...concept, images: [], captions: [] }
  const unsupported = new Map<string, string[]>()
  const others: string[] = []
  for (const name of files) {
    await turn()
    const format = unsupportedName(name)
    if (isHidden(name)) continue
    if (captionExtension(name, extensions)) source.captions.push(name)
    else if (isSide(name)) continue
    else if (isImage(name)) source.images.push(name)
    else if (format)
      unsupported
        .set(format, unsupported.get(format) ?? [])
        .get(format)
        ?.push(name)
    else others.push(name)
  }
  const skipped = [...unsupported].flatMap(([format, names]) => {
    const received = (count: number) => `${counted(count, `${format} image`)}, a format that is not supported, to be converted`
    return several({ code: 'IMAGE_UNSUPPORTED', folder, names, expected: 'PNG, JPEG, WebP, AVIF, GIF or TIFF images', received })
  })
  const received = (count: number) => counted(count, 'other file')
  skipped.push(...several({ code: 'NOT_AN_IMAGE', folder, names: others, expected: 'images and captions', received }))
  skipped.push(...(await skippedFolders(folder, folders, 'all images directly', false, signal)))
  return { source, skipped }
}

async function listRoot(root: string): Promise<{ files: string[]; folders: string[] }> {
  try {
    return await listEntries(root, 'a folder of images')
  } catch (error) {
    if (!(error instanceof LorafuseError)) throw error
    const { code } = error.cause as NodeJS.ErrnoException
    const reason = { ENOENT: 'which does not exist', ENOTDIR: 'a file' }[code ?? '']
    if (!reason) throw error
    throw new LorafuseError('IMAGES_NOT_FOUND', `Expected a folder for images but received ${root}, ${reason}`, { cause: error })
  }
}

/**
 * Lists the folders to take images from: the `N_class` folders if there are any, as kohya does, or else the folder itself. `extensions`: of
 * captions. Throws `IMAGES_NOT_FOUND`, and as `listEntries`.
 */
export async function listSources(
  root: string,
  extensions: string[],
  signal?: AbortSignal,
): Promise<{ sources: Source[]; skipped: Skipped[] }> {
  const known = [...extensions, ...CAPTION_EXTENSIONS]
  const entries = await listRoot(root)
  const concepts = entries.folders.filter((name) => conceptOf(name))
  if (concepts.length === 0) {
    const { source, skipped } = await sortFiles(root, { repeats: 1, classTokens: '' }, entries, known, signal)
    return { sources: [source], skipped }
  }
  const outside = entries.files.filter((name) => !isSide(name) && isPicture(name))
  const named = entries.folders.filter((name) => !conceptOf(name))
  const received = (count: number) => `${counted(count, 'image')} beside them`
  const skipped = [
    ...(await skippedFolders(root, named, 'folders named like 10_class', true, signal)),
    ...several({ code: 'IMAGE_OUTSIDE', folder: root, names: outside, expected: 'images inside the N_class folders', received }),
  ]
  const sources: Source[] = []
  for (const name of concepts) {
    const folder = join(root, name)
    const found = await listEntries(folder, 'a folder of images')
    const sorted = await sortFiles(folder, conceptOf(name) as Concept, found, known, signal)
    sources.push(sorted.source)
    skipped.push(...sorted.skipped)
  }
  return { sources, skipped }
}

/** What the name of a folder that was given itself would say in kohya's layout. */
export function unusedConcept(root: string, sources: Source[]): Concept | undefined {
  return sources[0]?.folder === root ? conceptOf(basename(resolve(root))) : undefined
}
