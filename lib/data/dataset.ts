/** Lists what to train on: a folder of images and captions, or kohya's parent folder of `N_class` folders. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { LorafuseError } from '../errors.js'
import type { WarningEvent } from '../events.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { CAPTION_EXTENSIONS, type Concept, captionOf, conceptOf } from './captions.js'
import { IMAGE_EXTENSIONS, probeImage } from './images.js'

export interface DatasetItem {
  path: string
  caption: string
  /** How many times an epoch trains on the image. */
  repeats: number
  /** In pixels, upright. */
  width: number
  height: number
  /** Name of the folder that the file lies in. */
  folder: string
}

export interface Dataset {
  /** Sorted by the code units of their paths, so in the same order on every machine. */
  items: DatasetItem[]
  warnings: DatasetWarning[]
}

export type DatasetWarning = Omit<WarningEvent, 'type'>

/** Without a `captionExtension`, captions are in `.txt` or else `.caption` files; `strict` refuses a folder with a file to be skipped. */
export type DatasetOptions = Pick<ResolvedTrainOptions, 'images' | 'captionExtension' | 'strict'>

/** Files of other tools, ignored in silence: caches of latents, kohya's metadata. */
const SIDE_FILES = ['.npz', '.json', '.jsonl', '.safetensors']

async function list(folder: string): Promise<{ files: string[]; folders: string[] }> {
  const files: string[] = []
  const folders: string[] = []
  for (const name of (await readdir(folder)).sort()) {
    if (name.startsWith('.')) continue
    const found = await stat(join(folder, name)).catch(() => undefined)
    if (found?.isDirectory()) folders.push(name)
    else files.push(name)
  }
  return { files, folders }
}

const isImage = (name: string) => IMAGE_EXTENSIONS.includes(extname(name).toLowerCase())

/** Lists the folders to take images from: the `N_class` folders if there are any, as kohya does, or else the folder itself. */
async function sources(root: string, warnings: DatasetWarning[]): Promise<(Concept & { folder: string })[]> {
  const { files, folders } = await list(root)
  const concepts = folders.flatMap((name) => {
    const concept = conceptOf(name)
    return concept ? [{ folder: join(root, name), ...concept }] : []
  })
  if (concepts.length === 0) return [{ folder: root, repeats: 1, classTokens: '' }]
  for (const name of folders.filter((name) => !conceptOf(name))) {
    const message = `Expected a folder named like 10_class but received ${name}`
    warnings.push({ code: 'FOLDER_SKIPPED', message, path: join(root, name) })
  }
  for (const name of files.filter(isImage)) {
    const message = `Expected images inside the N_class folders but received ${name} beside them`
    warnings.push({ code: 'IMAGE_OUTSIDE', message, path: join(root, name) })
  }
  return concepts
}

async function readCaption(path: string, extensions: string[]): Promise<string | undefined> {
  const stem = path.slice(0, path.length - extname(path).length)
  for (const extension of extensions) {
    const bytes = await readFile(stem + extension).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw new LorafuseError('CAPTION_UNREADABLE', `Expected a readable caption file at ${stem + extension} but received ${error.code}`)
    })
    if (!bytes) continue
    try {
      return captionOf(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
    } catch {
      throw new LorafuseError('CAPTION_UNREADABLE', `Expected UTF-8 for the caption file ${stem + extension} but received other bytes`)
    }
  }
  return undefined
}

/** Throws `DATASET_NOT_CLEAN` if files are skipped in spite of `strict`, `NO_IMAGES` if no image is usable. */
export function checkUsable(options: Pick<DatasetOptions, 'images' | 'strict'>, usable: number, skipped: DatasetWarning[]): void {
  const { images, strict } = options
  const reasons = skipped.map(({ message }) => `\n  ${message}`).join('')
  if (strict && skipped.length > 0) {
    const message = `Expected nothing to skip in ${images} (strict) but received ${skipped.length} bad files:${reasons}`
    throw new LorafuseError('DATASET_NOT_CLEAN', message)
  }
  if (usable > 0) return
  const wanted = `at least one image (${IMAGE_EXTENSIONS.join(' ')}) in ${images} or its N_class folders`
  throw new LorafuseError('NO_IMAGES', `Expected ${wanted} but received none${reasons}`)
}

/**
 * Lists the images of a folder with captions, repeats and sizes. Reads headers alone: a file whose header is not an image's is skipped and
 * listed in `warnings`, damage behind the header is found by `loadImage`. Throws `IMAGES_NOT_FOUND` (no such folder), `NO_IMAGES` (no usable
 * image), `DATASET_NOT_CLEAN` (strict).
 */
export async function scanDataset(options: DatasetOptions, signal?: AbortSignal): Promise<Dataset> {
  const { images, captionExtension } = options
  const found = await stat(images).catch(() => undefined)
  if (!found?.isDirectory()) {
    throw new LorafuseError(
      'IMAGES_NOT_FOUND',
      `Expected a folder for images but received ${images}, ${found ? 'a file' : 'which does not exist'}`,
    )
  }
  const extensions = captionExtension === undefined ? CAPTION_EXTENSIONS : [captionExtension.replace(/^\.?/, '.')]
  const quiet = [...extensions, ...CAPTION_EXTENSIONS, ...SIDE_FILES]
  const skipped: DatasetWarning[] = []
  const items: DatasetItem[] = []
  let bare = 0
  for (const { folder, repeats, classTokens } of await sources(images, skipped)) {
    for (const name of (await list(folder)).files) {
      signal?.throwIfAborted()
      const path = join(folder, name)
      if (!isImage(name)) {
        if (quiet.includes(extname(name).toLowerCase())) continue
        skipped.push({ code: 'NOT_AN_IMAGE', message: `Expected an image or a caption but received ${path}`, path })
        continue
      }
      try {
        const size = await probeImage(path)
        const caption = await readCaption(path, extensions)
        if (!(caption ?? classTokens)) bare += 1
        items.push({ path, caption: caption ?? classTokens, repeats, ...size, folder: basename(folder) })
      } catch (error) {
        if (!(error instanceof LorafuseError)) throw error
        skipped.push({ code: error.code, message: error.message, path })
      }
    }
  }
  checkUsable(options, items.length, skipped)
  const warnings = skipped.map((warning) => ({ ...warning, message: `${warning.message}; it is skipped` }))
  const message = `${bare} of ${items.length} images have no caption and train with an empty one; put it into a .txt file of the same name`
  if (bare > 0) warnings.push({ code: 'NO_CAPTION', message, path: images })
  return { items, warnings }
}
