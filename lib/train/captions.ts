/** Says what of the captions is not used. */
import type { DatasetItem } from '../data/dataset.js'
import type { DatasetWarning } from '../data/skipped.js'
import { ownTokens, type Tokenizer } from '../models/tokenizer.js'
import { turns } from '../turns.js'

/** Makes the warnings of the images that train: captions that are missing, of several lines, or longer than the tokens of its chunks. */
export async function captionWarnings(
  items: Pick<DatasetItem, 'caption' | 'captionCut'>[],
  folder: string,
  tokenizer: Pick<Tokenizer, 'length' | 'count'>,
  chunks: number,
  signal?: AbortSignal,
): Promise<DatasetWarning[]> {
  const turn = turns(signal)
  const most = chunks * ownTokens(tokenizer)
  const long = new Map<string, boolean>()
  let [bare, cut, tooLong] = [0, 0, 0]
  for (const { caption, captionCut } of items) {
    await turn()
    if (!long.has(caption)) long.set(caption, tokenizer.count(caption, chunks) > most)
    if (caption === '') bare += 1
    if (captionCut) cut += 1
    if (long.get(caption)) tooLong += 1
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
