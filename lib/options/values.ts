/** Kinds of option values: what is expected, what is accepted, how it is written on a command line. */

/** Red, green and blue, 0 to 255. */
export type Colour = [number, number, number]

export interface Kind<Input, Value> {
  /** For errors, help and docs, e.g. `a whole number of 1 or more`. */
  expected: string
  /** The value; undefined where the input is none. */
  accept(input: unknown): Value | undefined
  /** What a command line's text stands for; left as it is where it stands for nothing. */
  fromText(text: string): unknown
  /** In help, e.g. `N`; a flag has none. */
  placeholder?: string
  /** May be given without a value, which then is `true`. */
  flag?: boolean
  /** May be given several times. */
  repeatable?: boolean
  /** All words that are accepted, where they can be counted. */
  words?: readonly string[]
  /** Type only: what callers may pass. */
  input?: Input
}

/** A LoRA file and how much of it. */
export interface LoraReference {
  path: string
  weight: number
}

const same = (text: string): unknown => text

function numberOf(text: string): unknown {
  const value = Number(text)
  return text.trim() === '' || Number.isNaN(value) ? text : value
}

function range(least: number, most: number): string {
  return most >= Number.MAX_SAFE_INTEGER ? `of ${least} or more` : `from ${least} to ${most}`
}

export function integer(least: number, most = Number.MAX_SAFE_INTEGER, multiple = 1): Kind<number, number> {
  const valid = (input: number) => Number.isSafeInteger(input) && input >= least && input <= most && input % multiple === 0
  return {
    expected: `a ${multiple > 1 ? `multiple of ${multiple}` : 'whole number'} ${range(least, most)}`,
    accept: (input) => (typeof input === 'number' && valid(input) ? input : undefined),
    fromText: numberOf,
    placeholder: 'N',
  }
}

export function number(least: number, most: number): Kind<number, number> {
  return {
    expected: `a number ${range(least, most)}`,
    accept: (input) => (typeof input === 'number' && input >= least && input <= most ? input : undefined),
    fromText: numberOf,
    placeholder: 'X',
  }
}

/** `also`: other tools' words for a value. */
export function choice<const Value extends string>(values: readonly Value[], also: Record<string, Value> = {}): Kind<Value, Value> {
  return {
    expected: values.length > 1 ? `${values.slice(0, -1).join(', ')} or ${values.at(-1)}` : `${values[0]}`,
    accept: (input) =>
      values.find((value) => value === input) ?? (typeof input === 'string' && Object.hasOwn(also, input) ? also[input] : undefined),
    fromText: same,
    placeholder: values.join('|'),
    words: [...values, ...Object.keys(also)],
  }
}

export const flag: Kind<boolean, boolean> = {
  expected: 'true or false',
  accept: (input) => (typeof input === 'boolean' ? input : undefined),
  fromText: (text) => (text === 'true' ? true : text === 'false' ? false : text),
  flag: true,
}

export const text: Kind<string, string> = {
  expected: 'a text',
  accept: (input) => (typeof input === 'string' ? input : undefined),
  fromText: same,
  placeholder: 'TEXT',
}

const isPath = (input: unknown): input is string => typeof input === 'string' && input !== '' && !input.includes('\0')

export const path: Kind<string, string> = {
  expected: 'a path',
  accept: (input) => (isPath(input) ? input : undefined),
  fromText: same,
  placeholder: 'PATH',
}

export const fileName: Kind<string, string> = {
  expected: 'a file name without folder',
  accept: (input) => (isPath(input) && !/[/\\]|^\.{1,2}$/.test(input) ? input : undefined),
  fromText: same,
  placeholder: 'NAME',
}

/** A path, true for the newest state, or false. */
export const resumeFrom: Kind<string | boolean, string | boolean> = {
  expected: 'the path of a state, or true for the newest',
  accept: (input) => (typeof input === 'boolean' || isPath(input) ? input : undefined),
  fromText: same,
  placeholder: 'PATH',
  flag: true,
}

const square = integer(64, 4096)

/** kohya also writes `512,512`. */
export const resolution: Kind<number, number> = {
  ...square,
  fromText: (words) => {
    const [width, height] = words.split(',')
    return numberOf(width === height ? (width as string) : words)
  },
}

const COLOURS: Record<string, Colour> = { white: [255, 255, 255], black: [0, 0, 0] }

export const colour: Kind<string, Colour> = {
  expected: 'white, black or #rrggbb',
  accept: (input) => {
    if (typeof input !== 'string') return undefined
    const hex = /^#?([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(input)
    if (hex) return hex.slice(1).map((digits) => Number.parseInt(digits, 16)) as Colour
    return Object.hasOwn(COLOURS, input) ? COLOURS[input] : undefined
  },
  fromText: same,
  placeholder: 'COLOUR',
}

/** `file:0.8`, or an object; weight 1 where it is left out. */
export const lora: Kind<string | { path: string; weight?: number }, LoraReference> = {
  expected: 'a LoRA file, or file:weight',
  accept: (input) => {
    const { path: file, weight = 1 } = typeof input === 'string' ? splitWeight(input) : ((input ?? {}) as Partial<LoraReference>)
    return isPath(file) && Number.isFinite(weight) ? { path: file, weight } : undefined
  },
  fromText: same,
  placeholder: 'FILE[:WEIGHT]',
}

function splitWeight(words: string): Partial<LoraReference> {
  const [, file, weight] = /^(.+):([-+]?(?:\d+\.?\d*|\.\d+))$/.exec(words) ?? []
  return weight === undefined ? { path: words } : { path: file as string, weight: Number(weight) }
}

/** One or several. */
export function list<Input, Value>(kind: Kind<Input, Value>): Kind<Input | Input[], Value[]> {
  return {
    ...kind,
    expected: `${kind.expected}, or a list of them`,
    accept: (input) => {
      const values = (Array.isArray(input) ? input : [input]).map(kind.accept)
      return values.includes(undefined) ? undefined : (values as Value[])
    },
    fromText: kind.fromText,
    repeatable: true,
  } as Kind<Input | Input[], Value[]>
}
