/** Lists what to train on: a folder of images and captions, or kohya's parent folder of `N_class` folders. */
import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { cut, LorafuseError, shown } from '../errors.js'
import { readText } from '../files/read.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { mapAtOnce } from '../turns.js'
import { CAPTION_EXTENSIONS, type Caption, captionOf, matchCaptions } from './captions.js'
import { listSources, type Source, unusedConcept } from './folders.js'
import { isImage, unsupportedName } from './formats.js'
import { checkImage, isBadImage, probeImage } from './images.js'
import { checkUsable, counted, type DatasetWarning, type Skipped, several, skippedFile, warningsOf } from './skipped.js'

export interface DatasetItem {
  path: string
  caption: string
  /** The caption file has further lines, which are not used. */
  captionCut?: boolean
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

/** Without a `captionExtension`, captions are in `.txt` or else `.caption` files; `strict` refuses a folder with a file to be skipped. */
export type DatasetOptions = Pick<ResolvedTrainOptions, 'images' | 'captionExtension' | 'strict'>

/** Most samples of an epoch, repeats included: a year of training at three seconds each. */
const MOST_SAMPLES = 10_000_000
const LARGEST_CAPTION = 2 ** 20
/** Files that are read at once; libuv has four threads for them. */
const AT_ONCE = 8
/** How many bytes of files, or of decoded images, are held at once; a larger one is alone. */
const MOST_BYTES = 2 ** 28

/** The size of a file; what is wrong with it is found when it is read. */
async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  )
}

async function readCaption(path: string): Promise<Caption> {
  try {
    return captionOf(await readText(path, 'a caption file', LARGEST_CAPTION))
  } catch (cause) {
    const reason = captionFault(path, cause)
    throw reason === undefined ? cause : new LorafuseError('CAPTION_UNREADABLE', reason, { cause })
  }
}

/** Says what is wrong with a caption file, if that is why it was not read. */
function captionFault(path: string, cause: unknown): string | undefined {
  // The decoder's error.
  if (cause instanceof TypeError) return `Expected UTF-8 for the caption file ${path} but received other bytes`
  return cause instanceof LorafuseError && cause.code !== 'TOO_MANY_FILES' ? cause.message : undefined
}

function isBadCaption(error: unknown): error is LorafuseError & { code: 'CAPTION_UNREADABLE' } {
  return error instanceof LorafuseError && error.code === 'CAPTION_UNREADABLE'
}

/** Reads the headers of a folder's images, and their captions. */
async function scanSource(source: Source, extensions: string[], signal: AbortSignal | undefined) {
  const { folder, images, classTokens, repeats } = source
  const { captions, left } = await matchCaptions(images, source.captions, extensions, signal)
  const read = async (name: string): Promise<DatasetItem | Skipped> => {
    const path = join(folder, name)
    const file = captions.get(name)
    try {
      const size = await probeImage(path)
      const caption = file === undefined ? { text: classTokens, cut: false } : await readCaption(join(folder, file))
      return { path, caption: caption.text, ...(caption.cut ? { captionCut: true } : {}), repeats, ...size, folder: basename(folder) }
    } catch (error) {
      if (isBadImage(error) || isBadCaption(error)) return skippedFile(path, error)
      throw error
    }
  }
  const found = await mapAtOnce(images, AT_ONCE, read, signal, { most: MOST_BYTES, of: (name) => sizeOf(join(folder, name)) })
  const expected = 'an image for each caption'
  const received = (count: number) => `${counted(count, 'caption')} without one`
  const unused = several({ code: 'CAPTION_UNUSED', folder, names: left, expected, received })
  return {
    items: found.filter((one): one is DatasetItem => !('code' in one)),
    skipped: [...found.filter((one): one is Skipped => 'code' in one), ...unused],
  }
}

/** Of a decoded image. */
const CHANNELS = 4

/** Finds the images that are damaged behind their headers. */
async function damaged(items: DatasetItem[], signal: AbortSignal | undefined): Promise<Skipped[]> {
  const check = async ({ path }: DatasetItem): Promise<Skipped[]> => {
    try {
      await checkImage(path)
      return []
    } catch (error) {
      if (!isBadImage(error)) throw error
      return [skippedFile(path, error)]
    }
  }
  const decoded = ({ width, height }: DatasetItem) => width * height * CHANNELS
  return (await mapAtOnce(items, AT_ONCE / 2, check, signal, { most: MOST_BYTES, of: decoded })).flat()
}

/** Refuses an epoch that no run could reach the end of. */
function checkEpoch(images: string, items: DatasetItem[]): void {
  const counts = new Map<string, { samples: number; count: number; repeats: number }>()
  let all = 0
  for (const { folder, repeats } of items) {
    const { samples, count } = counts.get(folder) ?? { samples: 0, count: 0 }
    counts.set(folder, { samples: samples + repeats, count: count + 1, repeats })
    all += repeats
  }
  if (all <= MOST_SAMPLES) return
  const [folder, { count, repeats }] = [...counts].reduce((most, one) => (one[1].samples > most[1].samples ? one : most))
  throw new LorafuseError(
    'EPOCH_TOO_LARGE',
    `Expected at most ${MOST_SAMPLES} samples an epoch in ${images} but received ${all}: the folder ${folder} has ${counted(count, 'image')} ` +
      `× ${repeats} repeats, as its name begins with that number; if it is a date or a count, rename the folder`,
  )
}

/** More are a date or a count. */
const MOST_REPEATS = 10_000

/** Says what the name of a folder that was given itself is not taken for. */
function unusedName(images: string, sources: Source[]): DatasetWarning[] {
  const concept = unusedConcept(images, sources)
  if (!concept || concept.repeats > MOST_REPEATS) return []
  const { repeats, classTokens } = concept
  const meaning = `${counted(repeats, 'repeat')} and the class tokens ${shown(classTokens)}`
  const message = `The name of ${resolve(images)} is not used: its images train once an epoch; for ${meaning} give the folder that holds it`
  return [{ code: 'REPEATS_UNUSED', message, path: images }]
}

/** Lists the extensions of caption files. */
function extensionsOf({ captionExtension }: DatasetOptions): string[] {
  if (captionExtension === undefined) return CAPTION_EXTENSIONS
  const extension = captionExtension.replace(/^\.?/, '.')
  if (isImage(`a${extension}`) || unsupportedName(`a${extension}`)) {
    throw new LorafuseError(
      'OPTION_INVALID',
      `Expected an extension of text files for captions but received ${cut(extension)}, one of images`,
    )
  }
  return [extension]
}

/**
 * Lists the images of a folder with captions, repeats and sizes. Reads headers alone: a file whose header is not an image's is skipped and
 * listed in `warnings`, damage behind the header is found by `loadImage`. Throws `IMAGES_NOT_FOUND` (no such folder), `NO_IMAGES` (no usable
 * image), `EPOCH_TOO_LARGE`, `DATASET_NOT_CLEAN` (strict; the list includes damage behind the header), `FILE_UNREADABLE` (a folder),
 * `TOO_MANY_FILES`, `OPTION_INVALID` (an extension of images for captions).
 */
export async function scanDataset(options: DatasetOptions, signal?: AbortSignal): Promise<Dataset> {
  const { images, strict } = options
  const extensions = extensionsOf(options)
  signal?.throwIfAborted()
  const { sources, skipped, unseen } = await listSources(images, extensions, signal)
  const items: DatasetItem[] = []
  for (const source of sources) {
    const found = await scanSource(source, extensions, signal)
    for (const item of found.items) items.push(item)
    for (const one of found.skipped) skipped.push(one)
  }
  if (strict && skipped.length > 0) skipped.push(...(await damaged(items, signal)))
  checkUsable(options, items.length, skipped)
  checkEpoch(images, items)
  return { items, warnings: [...warningsOf(skipped), ...unseen, ...unusedName(images, sources)] }
}
