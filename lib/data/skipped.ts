/** What a scan passes over: warnings, or errors where nothing may be passed over or nothing is left. */
import { basename, dirname, join } from 'node:path'
import { cut, LISTED, LorafuseError, listed, shortened } from '../errors.js'
import type { WarningEvent } from '../events.js'
import type { ResolvedTrainOptions } from '../options/resolve.js'
import { IMAGE_EXTENSIONS } from './formats.js'

export type DatasetWarning = Omit<WarningEvent, 'type'>

/** Files that are left out for one reason. */
export interface Skipped {
  code: keyof typeof KINDS
  /** A sentence without its end. */
  message: string
  path: string
  count: number
  /** What is wrong with a file that was found bad by itself. */
  fault?: string
}

/** A file that is left out for what its error says: `Expected … but received …`. */
export function skippedFile(path: string, { code, message }: { code: Skipped['code']; message: string }): Skipped {
  const fault = message.slice(message.lastIndexOf(' but received') + ' but received'.length).replace(/^:? /, '')
  return { code, message, path, count: 1, fault: cut(fault) }
}

/** What is counted where no image is left: a word, and what stands behind it and its plural. */
const KINDS = {
  IMAGE_UNREADABLE: ['unreadable image', ''],
  IMAGE_UNSUPPORTED: ['unsupported image', ''],
  CAPTION_UNREADABLE: ['image', ' with an unreadable caption'],
  CAPTION_UNUSED: ['caption', ' without an image'],
  NOT_AN_IMAGE: ['other file', ''],
  FOLDER_SKIPPED: ['folder', ' not searched'],
  IMAGE_OUTSIDE: ['image', ' beside N_class folders'],
} as const

/** Files or folders of one folder that are left out for one reason. */
interface Several {
  code: Skipped['code']
  folder: string
  names: string[]
  /** What follows each name. */
  notes?: string[]
  expected: string
  /** What they are, e.g. `2 folders`. */
  received: (count: number) => string
}

/** Describes what is left out, if it is anything: counts first, then five names. */
export function several({ code, folder, names, notes = [], expected, received }: Several): Skipped[] {
  if (names.length === 0) return []
  const path = names.length > 1 ? folder : join(folder, names[0] as string)
  const list = listed(names.map((name, i) => name + (notes[i] ?? '')))
  return [{ code, message: `Expected ${expected} in ${folder} but received ${received(names.length)}: ${list}`, path, count: names.length }]
}

/** The plural of a word for other numbers than one. */
export const counted = (count: number, word: string) => `${count} ${word}${count === 1 ? '' : 's'}`

const total = (skipped: Skipped[]) => skipped.reduce((sum, { count }) => sum + count, 0)
const reasons = (skipped: Skipped[]) => skipped.map(({ message }) => message)

function warningOf({ code, message, path, count }: Skipped): DatasetWarning {
  return { code, message: `${message}; ${count === 1 ? 'it is' : 'they are'} skipped`, path }
}

/** Makes one warning of files of one folder and code. */
function warningOfAll(files: Skipped[]): DatasetWarning {
  const [{ code, path }] = files as [Skipped]
  const [word, rest] = KINDS[code]
  const received = (count: number) => counted(count, word) + rest
  const [names, notes] = [files.map(({ path }) => basename(path)), files.map(({ fault }) => ` (${fault})`)]
  const [all] = several({ code, folder: dirname(path), names, notes, expected: 'files that can be used', received })
  return { ...warningOf(all as Skipped), paths: files.map(({ path }) => path) }
}

/** Makes the warnings: each bad file has its own, but where a folder has more than five of one code, they have one together. */
export function warningsOf(skipped: Skipped[]): DatasetWarning[] {
  const groups = new Map<string, Skipped[]>()
  for (const one of skipped) {
    const key = one.fault === undefined ? one.message : JSON.stringify([one.code, dirname(one.path)])
    const group = groups.get(key)
    if (group) group.push(one)
    else groups.set(key, [one])
  }
  return [...groups.values()].flatMap((group) => (group.length > LISTED ? [warningOfAll(group)] : group.map(warningOf)))
}

/** Throws `DATASET_NOT_CLEAN` if files are skipped in spite of `strict`, `NO_IMAGES` if no image is usable. */
export function checkUsable({ images, strict }: Pick<ResolvedTrainOptions, 'images' | 'strict'>, usable: number, skipped: Skipped[]): void {
  const lines = shortened(reasons(skipped))
  if (strict && skipped.length > 0) {
    const message = `Expected nothing to skip in ${images} (strict) but received ${counted(total(skipped), 'bad file')}:`
    throw new LorafuseError('DATASET_NOT_CLEAN', message, { lines })
  }
  if (usable > 0) return
  const kinds = Object.entries(KINDS).flatMap(([code, [word, rest]]) => {
    const count = total(skipped.filter((one) => one.code === code))
    return count > 0 ? [counted(count, word) + rest] : []
  })
  const seen = kinds.length > 0 ? `${kinds.join(', ')}:` : 'nothing'
  const wanted = `at least one image (${IMAGE_EXTENSIONS.join(' ')}) in ${images} or its N_class folders`
  throw new LorafuseError('NO_IMAGES', `Expected ${wanted} but received ${seen}`, { lines })
}
