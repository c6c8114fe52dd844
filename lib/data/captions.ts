/** kohya's caption rules (kohya-ss/sd-scripts:library/train_util.py, library/config_util.py), pure. */

/** Extensions of caption files, in the order in which they are tried. */
export const CAPTION_EXTENSIONS = ['.txt', '.caption']

/** Takes a caption from the text of its file: the first line, trimmed. */
export function captionOf(text: string): string {
  return (text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/, 1)[0] as string).trim()
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
  return repeats >= 1 && Number.isSafeInteger(repeats) ? { repeats, classTokens: rest.join('_').trim() } : undefined
}
