/** Checks options against their rows. */
import { cut, LorafuseError, shortened, shown } from '../errors.js'
import { insteadInDrawing } from './drawing-names.js'
import { insteadOf } from './kohya.js'
import type { Presence, Row, Table } from './rows.js'
import { benchTable, generateTable, planTable, quickDefaults, trainTable } from './table.js'
import type { Kind } from './values.js'

export type { LoraReference } from './values.js'

type KeysOf<T extends Table, P extends Presence> = { [K in keyof T]: T[K] extends Row<unknown, unknown, P> ? K : never }[keyof T]
type Input<R> = R extends { kind: Kind<infer I, unknown> } ? I : never
type Value<R> = R extends { kind: Kind<unknown, infer V> } ? V : never

type Options<T extends Table> = { [K in KeysOf<T, 'required'>]: Input<T[K]> } & {
  [K in KeysOf<T, 'default' | 'optional'>]?: Input<T[K]> | undefined
}
type Resolved<T extends Table> = { [K in KeysOf<T, 'required' | 'default'>]: Value<T[K]> } & {
  [K in KeysOf<T, 'optional'>]: Value<T[K]> | undefined
}

/** What `train` takes; see docs/options.md. */
export interface TrainOptions extends Options<typeof trainTable> {}
/** What `generate` takes; see docs/options.md. */
export interface GenerateOptions extends Options<typeof generateTable> {}

/** The options of `train`, but that `imageCount` may stand for `images`; and `gpu`. */
export interface PlanOptions extends Options<typeof planTable> {}

/** What `bench` takes; see docs/options.md. */
export interface BenchOptions extends Options<typeof benchTable> {}

/** Checked options with their defaults; where `epochs` is given it replaces `steps`. */
export type ResolvedTrainOptions = Resolved<typeof trainTable> & { alpha: number; convAlpha: number | undefined }
export type ResolvedPlanOptions = ResolvedTrainOptions & Pick<Resolved<typeof planTable>, 'imageCount' | 'gpu'>
export type ResolvedBenchOptions = Resolved<typeof benchTable>
export type ResolvedGenerateOptions = Resolved<typeof generateTable>

/** How errors call an option: `batchSize` in the library, `--batch-size` on the command line. */
export type Label = (name: string) => string

export const asIs: Label = (name) => name

/** `batchSize` → `batch-size`. */
export function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

/** Counts the edits (insertion, deletion, exchange, swap of neighbours) that turn `a` into `b`: restricted Damerau–Levenshtein. */
function distance(a: string, b: string): number {
  let [before, last, row]: [number[], number[], number[]] = [[], [], Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    before = last
    last = row
    row = [i]
    for (let j = 1; j <= b.length; j++) {
      const exchange = (last[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      const swap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? (before[j - 2] as number) + 1 : Infinity
      row.push(Math.min((last[j] as number) + 1, (row[j - 1] as number) + 1, exchange, swap))
    }
  }
  return row[b.length] as number
}

/** Finds the name that was probably meant, if any is near. */
export function nearest(name: string, names: string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replace(/[-_]/g, '')
  const [received, most] = [plain(name), Math.max(1, Math.floor(name.length / 3))]
  const near = names
    // Every letter too many is an edit: a name of any length is compared with none that it cannot mean.
    .filter((known) => Math.abs(plain(known).length - received.length) <= most)
    .map((known) => ({ known, edits: distance(received, plain(known)) }))
    .sort((a, b) => a.edits - b.edits)[0]
  return near && near.edits <= most ? near.known : undefined
}

/** Most unknown options that an error names. */
const MOST_UNKNOWN = 100

/** By command, what says what to do instead of other tools' options. */
const ADVICE: Record<string, typeof insteadOf> = { train: insteadOf, plan: insteadOf, generate: insteadInDrawing }

/** Makes an `OPTION_UNKNOWN` of all names that are not known, with what to do instead, or the nearest name. */
export function unknownOptions(command: string, unknown: string[], names: string[], label: Label): LorafuseError {
  const spelt = (option: string) => label(names.includes(option) ? option : kebab(option))
  const hints = [...new Set(unknown)].map((name) => {
    const received = cut(name)
    const advice = ADVICE[command]?.(name, spelt)
    const meant = nearest(received, names)
    const hint = advice ?? (meant === undefined ? undefined : `did you mean ${label(meant)}?`)
    return label(received) + (hint === undefined ? '' : `; ${hint}`)
  })
  if (hints.length === 1) return new LorafuseError('OPTION_UNKNOWN', `Expected an option of ${command} but received ${hints[0]}`)
  const message = `Expected options of ${command} but received ${hints.length} that it does not have:`
  return new LorafuseError('OPTION_UNKNOWN', message, { lines: shortened(hints, MOST_UNKNOWN) })
}

/** Makes an `OPTION_INVALID`; leave `value` out if no value came. */
export function invalidOption(expected: string, name: string, ...value: [unknown?]): LorafuseError {
  return new LorafuseError('OPTION_INVALID', `Expected ${expected} for ${name} but received ${value.length > 0 ? shown(value[0]) : 'none'}`)
}

/** Makes the `OPTION_INVALID` of two options of which only one may be given. */
function bothGiven(one: string, other: string, label: Label): LorafuseError {
  return new LorafuseError('OPTION_INVALID', `Expected ${label(one)} or ${label(other)} but received both`)
}

/** Writes the values of a list as they stand on a command line. */
export function valuesInARow(values: unknown[]): string {
  const written = values.slice(0, 20).map((value) => shown(value))
  return cut(written.join(' '))
}

/** Makes the `OPTION_INVALID` of a value, which may be a list where the kind takes one. */
function refused({ expected, repeatable }: Kind<unknown, unknown>, name: string, value: unknown): LorafuseError {
  if (!repeatable || !Array.isArray(value) || value.length === 0) return invalidOption(expected, name, value)
  return new LorafuseError('OPTION_INVALID', `Expected ${expected} for ${name} but received ${valuesInARow(value)}`)
}

/** Checks each value against its row. Throws `OPTION_REQUIRED`, `OPTION_INVALID`, `OPTION_UNKNOWN`. */
export function resolve<T extends Table>(command: string, table: T, input: unknown, label: Label): Resolved<T> {
  if (typeof input !== 'object' || input === null) {
    throw new LorafuseError('OPTION_INVALID', `Expected an object for the options of ${command} but received ${shown(input)}`)
  }
  const given = input as Record<string, unknown>
  const unknown = Object.keys(given).filter((name) => !Object.hasOwn(table, name))
  if (unknown.length > 0) throw unknownOptions(command, unknown, Object.keys(table), label)
  const resolved: Record<string, unknown> = {}
  for (const [name, { kind, presence, default: fallback }] of Object.entries(table)) {
    const value = given[name]
    if (presence === 'required' && (value === undefined || (Array.isArray(value) && value.length === 0))) {
      throw new LorafuseError('OPTION_REQUIRED', `Expected ${kind.expected} for ${label(name)} but received none`)
    }
    resolved[name] = value === undefined ? fallback?.() : kind.accept(value)
    if (value !== undefined && resolved[name] === undefined) throw refused(kind, label(name), value)
  }
  return resolved as Resolved<T>
}

/** Smaller ones lose digits in f32, and become 0, which means the rank. */
const LEAST_ALPHA = 1e-37

/** Checks the options that say whether text encoders are trained. Throws `OPTION_INVALID` where two contradict each other. */
function checkTextOptions(options: Resolved<typeof trainTable>, label: Label): void {
  const { textEncoderLr, networkTrainUnetOnly, networkTrainTextEncoderOnly, stopTextEncoderTraining } = options
  const trainsText = textEncoderLr?.some((rate) => rate > 0)
  if (networkTrainUnetOnly && trainsText) throw bothGiven('networkTrainUnetOnly', 'textEncoderLr', label)
  if (networkTrainUnetOnly && networkTrainTextEncoderOnly) throw bothGiven('networkTrainUnetOnly', 'networkTrainTextEncoderOnly', label)
  if (networkTrainTextEncoderOnly && options.convRank !== undefined) throw bothGiven('networkTrainTextEncoderOnly', 'convRank', label)
  if (stopTextEncoderTraining === undefined) return
  if (networkTrainTextEncoderOnly) throw bothGiven('stopTextEncoderTraining', 'networkTrainTextEncoderOnly', label)
  if (!trainsText) {
    const received = textEncoderLr ? valuesInARow(textEncoderLr) : 'none'
    const message = `Expected ${label('textEncoderLr')} above 0 beside ${label('stopTextEncoderTraining')} but received ${received}`
    throw new LorafuseError('OPTION_INVALID', message)
  }
}

/** Checks what `train` was given. Throws `OPTION_REQUIRED`, `OPTION_INVALID`, `OPTION_UNKNOWN`. */
export function resolveTrainOptions(input: unknown, label: Label = asIs): ResolvedTrainOptions {
  const options = resolve('train', trainTable, input, label)
  const { steps, epochs } = input as TrainOptions
  if (steps !== undefined && epochs !== undefined) throw bothGiven('steps', 'epochs', label)
  if (options.bucketMin > options.bucketMax) {
    throw invalidOption(`at most ${label('bucketMax')}, ${options.bucketMax},`, label('bucketMin'), options.bucketMin)
  }
  if (options.bucketStep > options.resolution) {
    const most = `at most ${label('resolution')}, ${options.resolution},`
    throw new LorafuseError('OPTION_INVALID', `Expected ${most} for ${label('bucketStep')} but received ${options.bucketStep}`)
  }
  if (options.fit !== undefined && options.gradientCheckpointing) throw bothGiven('fit', 'gradientCheckpointing', label)
  checkTextOptions(options, label)
  const alpha = options.alpha || options.rank
  const { convRank } = options
  if (convRank === undefined && options.convAlpha !== undefined) {
    throw new LorafuseError('OPTION_INVALID', `Expected ${label('convRank')} beside ${label('convAlpha')} but received none`)
  }
  const convAlpha = options.convAlpha || convRank
  for (const [name, value] of Object.entries({ alpha, convAlpha })) {
    if (value !== undefined && value < LEAST_ALPHA)
      throw invalidOption(`0 or at least ${LEAST_ALPHA}, as files hold it in f32,`, label(name), value)
  }
  return { ...options, alpha, convAlpha }
}

/** Checks what `plan` was given. Throws as `resolveTrainOptions`. */
export function resolvePlanOptions(input: unknown, label: Label = asIs): ResolvedPlanOptions {
  const { images, imageCount, gpu, device } = resolve('plan', planTable, input, label)
  if (images !== undefined && imageCount !== undefined) throw bothGiven('images', 'imageCount', label)
  if (images === undefined && imageCount === undefined) {
    throw new LorafuseError('OPTION_REQUIRED', `Expected ${label('images')} or ${label('imageCount')} but received neither`)
  }
  if (gpu !== undefined && device === 'cpu') throw invalidOption(`cuda beside ${label('gpu')}`, label('device'), device)
  const { imageCount: _, gpu: _name, ...rest } = input as PlanOptions
  return { ...resolveTrainOptions({ images: '.', ...rest }, label), imageCount, gpu }
}

/** Checks what `bench` was given. Throws as `resolveTrainOptions`. */
export function resolveBenchOptions(input: unknown, label: Label = asIs): ResolvedBenchOptions {
  const options = resolve('bench', benchTable, input, label)
  if (!options.quick) return options
  const given = Object.entries(input as BenchOptions).filter(([, value]) => value !== undefined)
  return resolve('bench', benchTable, { ...quickDefaults, ...Object.fromEntries(given) }, label)
}

/** Checks what `generate` was given. Throws as `resolveTrainOptions`. */
export function resolveGenerateOptions(input: unknown, label: Label = asIs): ResolvedGenerateOptions {
  return resolve('generate', generateTable, input, label)
}
