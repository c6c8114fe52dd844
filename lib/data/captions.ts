/** kohya's caption rules (kohya-ss/sd-scripts:library/train_util.py, library/config_util.py), pure. */
import { extname } from 'node:path'
import { turns } from '../turns.js'

/** Extensions of caption files, in the order in which they are tried. */
export const CAPTION_EXTENSIONS = ['.txt', '.caption']

/** What a caption file says. */
export interface Caption {
  /** The first line, trimmed. */
  text: string
  /** There is text below it, which is not used. */
  cut: boolean
}

/** Takes a caption from the text of its file. As in kohya, which joins lines only for its wildcards, it is the first line. */
export function captionOf(text: string): Caption {
  const [first = '', ...rest] = text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/)
  return { text: first.trim(), cut: rest.some((line) => line.trim() !== '') }
}

export interface Concept {
  /** How many times an epoch trains on each image. */
  repeats: number
  /** The caption of images without a caption file. */
  classTokens: string
}

/** Parses kohya's folder name `N_class tokens`; undefined unless the name begins with a number of 1 or more before its first `_`. */
export function conceptOf(folder: string): Concept | undefined {
  const [count, ...rest] = folder.split('_')
  if (!/^\s*\+?\d+\s*$/.test(count as string)) return undefined
  const repeats = Number(count)
  return repeats >= 1 ? { repeats, classTokens: rest.join('_').trim() } : undefined
}

/** A name as file systems that ignore case and Unicode's forms see it. */
const fold = (name: string) => name.normalize('NFC').toLowerCase()
const stemOf = (name: string, extension: string) => name.slice(0, name.length - extension.length)

/** Returns the extension of a caption file, folded, if it has one of these. */
export function captionExtension(name: string, extensions: string[]): string | undefined {
  const folded = fold(name)
  return extensions.map(fold).find((extension) => folded.endsWith(extension))
}

export interface Matches {
  /** Image → caption file. */
  captions: Map<string, string>
  /** Caption files that no image uses, but for those of an image that has one of an extension that comes first. */
  left: string[]
}

/**
 * Finds the caption file of each image of a folder: of the same name but for the extension, or else of one that differs in case or Unicode's
 * form alone. `extensions`: of caption files, in the order in which they are tried; `files` may have others.
 */
export async function matchCaptions(images: string[], files: string[], extensions: string[], signal?: AbortSignal): Promise<Matches> {
  const turn = turns(signal)
  const exact = new Set(files)
  const folded = new Map<string, string>()
  for (const file of files) {
    await turn()
    if (!folded.has(fold(file))) folded.set(fold(file), file)
  }
  const captions = new Map<string, string>()
  /** Folded stem → folded extension. */
  const captioned = new Map<string, string>()
  for (const image of images) {
    await turn()
    const stem = stemOf(image, extname(image))
    const names = extensions.map((extension) => stem + extension)
    const file = names.find((name) => exact.has(name)) ?? names.map((name) => folded.get(fold(name))).find((name) => name !== undefined)
    if (file === undefined) continue
    captions.set(image, file)
    captioned.set(fold(stem), captionExtension(file, extensions) as string)
  }
  const used = new Set(captions.values())
  const left: string[] = []
  for (const file of files) {
    await turn()
    const extension = captionExtension(file, [...extensions, ...CAPTION_EXTENSIONS]) as string
    const other = captioned.get(stemOf(fold(file), extension))
    if (!used.has(file) && (other === undefined || other === extension)) left.push(file)
  }
  return { captions, left }
}
