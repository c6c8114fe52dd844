/** kohya's caption rules (kohya-ss/sd-scripts:library/train_util.py, library/config_util.py), pure. */

/** Extensions of caption files, the first that is there wins. */
export const CAPTION_EXTENSIONS = ['.txt', '.caption']

/** A file's caption: its first line, trimmed. */
export function captionOf(text: string): string {
  return (text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/, 1)[0] as string).trim()
}

export interface Concept {
  /** How many times each image counts in an epoch. */
  repeats: number
  /** The caption of images without one. */
  classTokens: string
}

/** What kohya's folder name `N_class tokens` says; undefined where the name begins with no number of 1 or more before the first `_`. */
export function conceptOf(folder: string): Concept | undefined {
  const [count, ...rest] = folder.split('_')
  if (!/^\s*\+?\d+\s*$/.test(count as string)) return undefined
  const repeats = Number(count)
  return repeats >= 1 && Number.isSafeInteger(repeats) ? { repeats, classTokens: rest.join('_').trim() } : undefined
}
