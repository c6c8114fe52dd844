/** Kinds of option values, as data: help, docs, completion and forms are made from them, and values are checked against them. */

export interface Kind<Input, Value> {
  /** The field that a form would show. */
  type: 'integer' | 'number' | 'boolean' | 'choice' | 'text' | 'path' | 'colour' | 'size'
  /** The bounds of a number, both included. */
  min?: number
  max?: number
  /** A number is a multiple of this. */
  step?: number
  /** The values of a choice. */
  words?: readonly string[]
  /** Other tools' words for the values of a choice. */
  aliases?: Readonly<Record<string, Value>>
  /** The option may be given without a value, which then is `true`. */
  valueOptional?: boolean
  /** The option may be given several times. */
  repeatable?: boolean
  /** Several values may follow the option. */
  several?: boolean
  /** Completes "Expected …" in errors, e.g. `a whole number of 1 or more`. */
  expected: string
  /** Stands for the value in help, e.g. `N`; booleans have none. */
  placeholder?: string
  /** Returns the value that an input stands for, or undefined if it is not of this kind. */
  accept(input: unknown): Value | undefined
  /** Converts the text of a command line, or leaves it as it is for `accept` to refuse. */
  fromText?(text: string): unknown
  /** For types alone: what callers may pass. */
  input?: Input
}

/** Red, green and blue, 0 to 255. */
export type Colour = [number, number, number]

/** A LoRA file and the weight to apply it with. */
export interface LoraReference {
  path: string
  weight: number
}

interface Bounds {
  min: number
  max?: number
  step?: number
}

function numberOf(text: string): unknown {
  const value = Number(text)
  return text.trim() === '' || Number.isNaN(value) ? text : value
}

function bounded(type: 'integer' | 'number', { min, max, step }: Bounds): Kind<number, number> {
  const noun = step !== undefined ? `a multiple of ${step}` : type === 'integer' ? 'a whole number' : 'a number'
  const valid = (input: number) =>
    (type === 'number' || Number.isSafeInteger(input)) &&
    input >= min &&
    (max === undefined || input <= max) &&
    (step === undefined || input % step === 0)
  return {
    type,
    min,
    max,
    step,
    expected: `${noun} ${max === undefined ? `of ${min} or more` : `from ${min} to ${max}`}`,
    placeholder: type === 'integer' ? 'N' : 'X',
    accept: (input) => (typeof input === 'number' && valid(input) ? input : undefined),
    fromText: numberOf,
  }
}

export const integer = (bounds: Bounds) => bounded('integer', bounds)
export const number = (bounds: Bounds) => bounded('number', bounds)

/** One of several words, or of other tools' words for them. `fold`: words that it makes the same are the same. */
export function choice<const Value extends string>(
  words: readonly Value[],
  aliases: Record<string, Value> = {},
  fold: (word: string) => string = (word) => word,
): Kind<Value, Value> {
  const values = new Map(
    [...Object.entries(aliases), ...words.map((word) => [word, word] as const)].map(([word, value]) => [fold(word), value]),
  )
  return {
    type: 'choice',
    words,
    aliases,
    expected: words.length > 1 ? `${words.slice(0, -1).join(', ')} or ${words.at(-1)}` : `${words[0]}`,
    placeholder: words.join('|'),
    accept: (input) => (typeof input === 'string' ? values.get(fold(input)) : undefined),
  }
}

export const flag: Kind<boolean, boolean> = {
  type: 'boolean',
  expected: 'true or false',
  accept: (input) => (typeof input === 'boolean' ? input : undefined),
  fromText: (text) => (text === 'true' ? true : text === 'false' ? false : text),
}

/** A kind whose values are the valid inputs as they are. */
function plain<Value>(
  type: 'text' | 'path',
  expected: string,
  placeholder: string,
  isValid: (input: unknown) => input is Value,
): Kind<Value, Value> {
  return { type, expected, placeholder, accept: (input) => (isValid(input) ? input : undefined) }
}

const isText = (input: unknown): input is string => typeof input === 'string'
/** The system takes bytes: half a surrogate pair would become another name. */
const isPath = (input: unknown): input is string => isText(input) && input !== '' && !/[\0\p{Surrogate}]/u.test(input)
const isBaseName = (input: unknown): input is string => isPath(input) && !/[/\\]|^\.{1,2}$|\.safetensors$/i.test(input)
const isPng = (input: unknown): input is string => isPath(input) && /[^/]\.png$/i.test(input)
const isPicture = (input: unknown): input is string => isPath(input) && /[^/]\.(png|svg)$/i.test(input)
const isJson = (input: unknown): input is string => isPath(input) && /[^/]\.json$/i.test(input)
const isCsv = (input: unknown): input is string => isPath(input) && /[^/]\.csv$/i.test(input)
const isResumeFrom = (input: unknown): input is string | boolean => typeof input === 'boolean' || isPath(input)

export const text = plain('text', 'a text', 'TEXT', isText)
export const path = plain('path', 'a path', 'PATH', isPath)
/** Another ending would promise another format than the one that is written. */
export const pngFile = plain('path', 'the path of a .png file', 'FILE', isPng)
export const pictureFile = plain('path', 'the path of a .svg or .png file', 'FILE', isPicture)
export const jsonFile = plain('path', 'the path of a .json file', 'FILE', isJson)
export const csvFile = plain('path', 'the path of a .csv file', 'FILE', isCsv)
/** The extension is added to it. */
export const baseName = plain('text', 'a file name without folder and without .safetensors', 'NAME', isBaseName)

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

/** Bytes, as a number or in words: `8GB` is 8 GiB, as memory is sold. `auto`: what there is. */
export const memorySize: Kind<number | string, number | 'auto'> = {
  type: 'size',
  expected: 'a size such as 8GB or 900MB, or auto',
  placeholder: 'SIZE',
  accept: (input) => {
    if (input === 'auto') return 'auto'
    const [, count = '', unit = ''] = /^(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?$/i.exec(String(input)) ?? []
    const bytes = Math.floor(Number(count) * UNITS[unit.toLowerCase()]!)
    return count !== '' && Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined
  },
}

/** A state's path, true for the newest state, or false for none. */
export const resumeFrom: Kind<string | boolean, string | boolean> = {
  ...plain('path', 'the path of a state, or true for the newest', 'PATH', isResumeFrom),
  valueOptional: true,
}

const squareSide = integer({ min: 64, max: 4096 })
/** A side of a square in pixels; kohya also writes `512,512`. */
export const resolution: Kind<number, number> = {
  ...squareSide,
  expected: `a square's side, ${squareSide.expected}`,
  fromText: (words) => {
    const [width, height] = words.split(',')
    return numberOf(width === height ? (width as string) : words)
  },
}

const COLOURS: Record<string, Colour> = { white: [255, 255, 255], black: [0, 0, 0] }

export const colour: Kind<string, Colour> = {
  type: 'colour',
  expected: `${Object.keys(COLOURS).join(', ')} or #rrggbb`,
  placeholder: 'COLOUR',
  accept: (input) => {
    if (typeof input !== 'string') return undefined
    const hex = /^#?([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(input)
    if (hex) return hex.slice(1).map((digits) => Number.parseInt(digits, 16)) as Colour
    return Object.hasOwn(COLOURS, input) ? COLOURS[input] : undefined
  },
}

/** `file:0.8`, or an object; the weight is 1 where it is left out. `file.safetensors:abc` is a weight that is no number. */
export const lora: Kind<string | { path: string; weight?: number }, LoraReference> = {
  type: 'text',
  expected: 'a LoRA file, or file:weight with a number as the weight',
  placeholder: 'FILE[:WEIGHT]',
  accept: (input) => {
    const { path: file, weight = 1 } = typeof input === 'string' ? splitWeight(input) : ((input ?? {}) as Partial<LoraReference>)
    return isPath(file) && Number.isFinite(weight) ? { path: file, weight } : undefined
  },
}

function splitWeight(words: string): Partial<LoraReference> {
  const [, file, weight] = /^(.+):([-+]?(?:\d+\.?\d*|\.\d+))$/.exec(words) ?? []
  if (weight === undefined && /\.safetensors:[^/]*$/i.test(words)) return {}
  return weight === undefined ? { path: words } : { path: file as string, weight: Number(weight) }
}

/** One value of a kind, or several. */
export function list<Input, Value>(kind: Kind<Input, Value>): Kind<Input | Input[], Value[]> {
  const { expected, accept, aliases: _aliases, input: _input, ...data } = kind
  return {
    ...data,
    repeatable: true,
    expected: `${expected}, or a list of them`,
    accept: (input) => {
      const values = (Array.isArray(input) ? input : [input]).map(accept)
      return values.includes(undefined) ? undefined : (values as Value[])
    },
  }
}

/** One value of a kind, or up to `most`, one after the other. */
export function several<Input, Value>(kind: Kind<Input, Value>, most: number): Kind<Input | Input[], Value[]> {
  const any = list(kind)
  return {
    ...any,
    several: true,
    placeholder: [any.placeholder, ...Array(most - 1).fill(`[${any.placeholder}]`)].join(' '),
    expected: `${kind.expected}, or up to ${most} of them`,
    accept: (input) => {
      const values = any.accept(input)
      return values && values.length > 0 && values.length <= most ? values : undefined
    },
  }
}
