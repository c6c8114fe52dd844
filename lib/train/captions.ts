/** Says what of the captions is not used. */
import type { DatasetItem } from '../data/dataset.js'
import type { DatasetWarning } from '../data/skipped.js'
import type { CaptionTokens } from './cache.js'

/** Makes the warnings of the images that train: captions that are missing, of several lines, or longer than the `most` tokens that are used. */
export function captionWarnings(
  items: Pick<DatasetItem, 'caption' | 'captionCut'>[],
  folder: string,
  tokens: Pick<CaptionTokens, 'get'>,
  most: number,
): DatasetWarning[] {
  let [bare, cut, tooLong] = [0, 0, 0]
  for (const { caption, captionCut } of items) {
    if (caption === '') bare += 1
    if (captionCut) cut += 1
    if (tokens.get(caption)!.cut) tooLong += 1
  }
  const found = [
    { code: 'NO_CAPTION', count: bare, message: 'have no caption and train with an empty one; put it into a .txt file of the same name' },
    {
      code: 'CAPTION_LINES',
      count: cut,
      message: 'have a caption of several lines, of which only the first is used, as in kohya; join them',
    },
    { code: 'CAPTION_TOO_LONG', count: tooLong, message: `have a caption of more than ${most} tokens; the rest of it is not used` },
  ]
  return found
    .filter(({ count }) => count > 0)
    .map(({ code, count, message }) => ({ code, message: `${count} of ${items.length} images ${message}`, path: folder }))
}
