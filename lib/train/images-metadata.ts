/** What a LoRA's metadata says of its images, as kohya's (kohya-ss/sd-scripts:library/train_util.py): the same in every file of a run. */
import { type BucketOptions, bucketSides } from '../data/buckets.js'
import { type Turn, turns } from '../turns.js'
import type { TrainingImage } from './training-images.js'

/**
 * The most bytes that the counts of tags take in a header, and the lists of folders and of buckets. ComfyUI shows nothing of a file whose
 * header is longer than 1 MiB, of which the tensors of Stable Diffusion 1.x take a tenth, and those of SDXL a third.
 */
const TAG_BYTES = 448 * 1024
const LIST_BYTES = 64 * 1024

interface Folder {
  n_repeats: number
  img_count: number
}

function count<Key>(counts: Map<Key, number>, key: Key, more = 1): void {
  counts.set(key, (counts.get(key) ?? 0) + more)
}

/** Returns the bytes that `key` and its number take in an object whose JSON is a string in a header. */
const bytesOf = (key: string) => Buffer.byteLength(JSON.stringify(JSON.stringify(key))) + 16

/** An entry of an object within an object. */
interface Counted {
  outer: string
  inner: string
  times: number
}

/**
 * Chooses entries, those with the largest counts first, whose JSON takes at most `most` bytes of a header, names of the outer objects
 * included. Returns undefined if all do.
 */
async function mostFrequent(entries: Counted[], most: number, turn: Turn): Promise<Set<Counted> | undefined> {
  const byTimes = new Map<number, Counted[]>()
  for (const entry of entries) {
    const same = byTimes.get(entry.times)
    if (same) same.push(entry)
    else byTimes.set(entry.times, [entry])
    await turn()
  }
  const chosen = new Set<Counted>()
  const outers = new Set<string>()
  let left = most
  for (const [, same] of [...byTimes].sort(([a], [b]) => b - a)) {
    for (const entry of same) {
      await turn()
      const needed = bytesOf(entry.inner) + (outers.has(entry.outer) ? 0 : bytesOf(entry.outer))
      if (needed > left) continue
      left -= needed
      outers.add(entry.outer)
      chosen.add(entry)
    }
  }
  return chosen.size === entries.length ? undefined : chosen
}

/** Counts the tags, lower-cased parts of captions between commas, of each folder. The most frequent are kept if all take too many bytes. */
export async function tagFrequency(
  images: Pick<TrainingImage, 'folder' | 'caption'>[],
  turn: Turn = turns(),
): Promise<Record<string, Record<string, number>>> {
  const folders = new Map<string, Map<string, number>>()
  for (const { folder, caption } of images) {
    const tags = folders.get(folder) ?? new Map<string, number>()
    folders.set(folder, tags)
    for (const tag of caption.split(',')) {
      if (tag.trim() !== '') count(tags, tag.trim().toLowerCase())
      await turn()
    }
  }
  const entries: Counted[] = []
  for (const [outer, tags] of folders) {
    for (const [inner, times] of tags) {
      entries.push({ outer, inner, times })
      await turn()
    }
  }
  const chosen = await mostFrequent(entries, TAG_BYTES, turn)
  if (chosen) {
    folders.clear()
    for (const entry of entries) {
      await turn()
      if (!chosen.has(entry)) continue
      const { outer, inner, times } = entry
      const tags = folders.get(outer) ?? new Map<string, number>()
      folders.set(outer, tags.set(inner, times))
    }
  }
  return Object.fromEntries([...folders].map(([folder, tags]) => [folder, Object.fromEntries(tags)]))
}

/**
 * Lists each bucket's size and number of images, repeats included, and the mean error of the images' aspect ratios. The largest buckets are
 * kept if all take too many bytes.
 */
export async function bucketInfo(
  images: Pick<TrainingImage, 'bucket' | 'width' | 'height' | 'repeats'>[],
  turn: Turn = turns(),
): Promise<{ buckets: Record<string, { resolution: number[]; count: number }>; mean_img_ar_error: number }> {
  const sizes = new Map<string, number>()
  let error = 0
  for (const { bucket, width, height, repeats } of images) {
    count(sizes, `${bucket.width}x${bucket.height}`, repeats)
    error += Math.abs(bucket.width / bucket.height - width / height)
    await turn()
  }
  const entries: (Counted & { bucket: { resolution: number[]; count: number } })[] = []
  for (const [size, times] of sizes) {
    const bucket = { resolution: size.split('x').map(Number), count: times }
    entries.push({ outer: '', inner: JSON.stringify(bucket), times, bucket })
    await turn()
  }
  const chosen = await mostFrequent(entries, LIST_BYTES, turn)
  const buckets = (chosen ? entries.filter((entry) => chosen.has(entry)) : entries)
    .map(({ bucket }) => bucket)
    .sort(({ resolution: [a = 0, b = 0] }, { resolution: [c = 0, d = 0] }) => a - c || b - d)
  return { buckets: Object.fromEntries(buckets.entries()), mean_img_ar_error: error / images.length }
}

/** Lists the folders' repeats and numbers of images. The largest are kept if all take too many bytes. */
export async function datasetDirs(
  images: Pick<TrainingImage, 'folder' | 'repeats'>[],
  turn: Turn = turns(),
): Promise<Record<string, Folder>> {
  const folders = new Map<string, Folder>()
  for (const { folder, repeats } of images) {
    const found = folders.get(folder)
    if (found) found.img_count += 1
    else folders.set(folder, { n_repeats: repeats, img_count: 1 })
    await turn()
  }
  const entries = [...folders].map(([outer, { img_count: times }]) => ({ outer, inner: '', times }))
  const chosen = await mostFrequent(entries, LIST_BYTES, turn)
  const kept = chosen && new Set([...chosen].map(({ outer }) => outer))
  return Object.fromEntries([...folders].filter(([folder]) => kept?.has(folder) ?? true))
}

/** Returns the values of the metadata that describe the images of a run. */
export async function imagesMetadata(images: TrainingImage[], options: BucketOptions, signal?: AbortSignal) {
  const turn = turns(signal)
  const { least, most } = bucketSides(options)
  return {
    num_train_images: images.reduce((sum, { repeats }) => sum + repeats, 0),
    min_bucket_reso: options.buckets ? least : null,
    max_bucket_reso: options.buckets ? most : null,
    bucket_info: JSON.stringify(options.buckets ? await bucketInfo(images, turn) : null),
    tag_frequency: JSON.stringify(await tagFrequency(images, turn)),
    dataset_dirs: JSON.stringify(await datasetDirs(images, turn)),
    reg_dataset_dirs: '{}',
  }
}
