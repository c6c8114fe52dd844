/** Which folders images are taken from, and what lies in them. */
import { opendir } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { LorafuseError } from '../errors.js'
import { listEntries } from '../files/read.js'
import { turns } from '../turns.js'
import { CAPTION_EXTENSIONS, type Concept, captionExtension, conceptOf } from './captions.js'
import { isHidden, isImage, isSide, unsupportedName } from './formats.js'
import { counted, type DatasetWarning, type Skipped, several } from './skipped.js'

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

/** How many more names may be looked at, and whether there were more. */
interface Budget {
  left: number
  spent: boolean
}

/** Counts the images in a folder and the folders below it, as far as the budget goes; links to folders are not followed. */
async function countImages(folder: string, budget: Budget, signal: AbortSignal | undefined): Promise<number> {
  let count = 0
  const turn = turns(signal)
  for await (const entry of await opendir(folder, { bufferSize: 1024 })) {
    await turn()
    budget.spent = budget.left === 0
    if (budget.spent) break
    budget.left -= 1
    if (isSide(entry.name)) continue
    if (entry.isDirectory()) count += await countImages(join(folder, entry.name), budget, signal).catch(() => 0)
    else if (isPicture(entry.name)) count += 1
  }
  return count
}

/** Finds what folders hold that are not searched. `empty`: report those without images, too; `unseen`: how many were not looked at. */
async function skippedFolders(
  folder: string,
  names: string[],
  expected: string,
  empty: boolean,
  signal: AbortSignal | undefined,
): Promise<{ skipped: Skipped[]; unseen: DatasetWarning[] }> {
  const found: [name: string, note: string][] = []
  const budget = { left: MOST_NAMES, spent: false }
  let unseen = 0
  for (const name of names.filter((name) => !isSide(name))) {
    const count = await countImages(join(folder, name), budget, signal).catch((error: NodeJS.ErrnoException) => {
      if (error.code === undefined) throw error
    })
    signal?.throwIfAborted()
    if (count === undefined) found.push([name, ' (cannot be read)'])
    else if (count === 0 && budget.spent) unseen += 1
    else if (empty || count > 0) found.push([name, ` (${counted(count, 'image')}${budget.spent ? ' or more' : ''})`])
  }
  const [skipped, notes] = [found.map(([name]) => name), found.map(([, note]) => note)]
  const received = (count: number) => counted(count, 'folder')
  const code = 'FOLDER_SKIPPED'
  const message =
    `Expected ${expected} in ${folder} but received folders of more than ${MOST_NAMES} files: ` +
    `${counted(unseen, 'folder')} ${unseen === 1 ? 'was' : 'were'} not looked at for images`
  return {
    skipped: several({ code, folder, names: skipped, notes, expected, received }),
    unseen: unseen > 0 ? [{ code, message, path: folder }] : [],
  }
}

function otherFiles(folder: string, names: string[]): Skipped[] {
  const received = (count: number) => counted(count, 'other file')
  return several({ code: 'NOT_AN_IMAGE', folder, names, expected: 'images and captions', received })
}

/** Sorts a folder's files into images, captions and what is skipped. */
async function sortFiles(
  folder: string,
  concept: Concept,
  { files, folders }: { files: string[]; folders: string[] },
  extensions: string[],
  signal: AbortSignal | undefined,
): Promise<{ source: Source; skipped: Skipped[]; unseen: DatasetWarning[] }> {
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
  skipped.push(...otherFiles(folder, others))
  const below = await skippedFolders(folder, folders, 'all images directly', false, signal)
  return { source, skipped: [...skipped, ...below.skipped], unseen: below.unseen }
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

/** Sorts the files beside `N_class` folders, none of which is used. */
function outsideFiles(root: string, files: string[], extensions: string[]): Skipped[] {
  const [images, captions, others]: [string[], string[], string[]] = [[], [], []]
  for (const name of files.filter((name) => !isHidden(name))) {
    if (captionExtension(name, extensions)) captions.push(name)
    else if (isSide(name)) continue
    else if (isPicture(name)) images.push(name)
    else others.push(name)
  }
  const beside = (word: string) => (count: number) => `${counted(count, word)} beside them`
  const inside = (word: string) => `${word} inside the N_class folders`
  return [
    ...several({ code: 'IMAGE_OUTSIDE', folder: root, names: images, expected: inside('images'), received: beside('image') }),
    ...several({ code: 'CAPTION_UNUSED', folder: root, names: captions, expected: inside('captions'), received: beside('caption') }),
    ...otherFiles(root, others),
  ]
}

/**
 * Lists the folders to take images from: the `N_class` folders if there are any, as kohya does, or else the folder itself. `extensions`: of
 * captions; `unseen`: warnings of folders that were not looked at. Throws `IMAGES_NOT_FOUND`, and as `listEntries`.
 */
export async function listSources(
  root: string,
  extensions: string[],
  signal?: AbortSignal,
): Promise<{ sources: Source[]; skipped: Skipped[]; unseen: DatasetWarning[] }> {
  const known = [...extensions, ...CAPTION_EXTENSIONS]
  const entries = await listRoot(root)
  const concepts = entries.folders.filter((name) => conceptOf(name))
  if (concepts.length === 0) {
    const { source, ...rest } = await sortFiles(root, { repeats: 1, classTokens: '' }, entries, known, signal)
    return { sources: [source], ...rest }
  }
  const named = entries.folders.filter((name) => !conceptOf(name))
  const { skipped, unseen } = await skippedFolders(root, named, 'folders named like 10_class', true, signal)
  skipped.push(...outsideFiles(root, entries.files, known))
  const sources: Source[] = []
  for (const name of concepts) {
    const folder = join(root, name)
    const found = await listEntries(folder, 'a folder of images')
    const sorted = await sortFiles(folder, conceptOf(name) as Concept, found, known, signal)
    sources.push(sorted.source)
    skipped.push(...sorted.skipped)
    unseen.push(...sorted.unseen)
  }
  return { sources, skipped, unseen }
}

/** What the name of a folder that was given itself would say in kohya's layout. */
export function unusedConcept(root: string, sources: Source[]): Concept | undefined {
  return sources[0]?.folder === root ? conceptOf(basename(resolve(root))) : undefined
}
