/** The one error class of the package, how its sentences show values, and how a signal stops what runs. */
import { inspect } from 'node:util'

/** An error with one clear sentence and a stable, documented `code` such as `NO_IMAGES` or `SAFETENSORS_INVALID`. */
export class LorafuseError extends Error {
  readonly code: string

  /** `lines`: a list below the sentence, whose line breaks are the only ones. */
  constructor(code: string, message: string, { lines = [], ...options }: ErrorOptions & { lines?: string[] } = {}) {
    super([message, ...lines].map(printable).join('\n  '), options)
    this.name = 'LorafuseError'
    this.code = code
  }
}

const LONGEST = 80
/** How many items a list has before it is shortened. */
export const LISTED = 5

/** Writes a value that came from outside for a sentence: on one line, cut, whatever it is. Texts get quotes; see `cut` for names without. */
export function shown(value: unknown, longest = LONGEST): string {
  if (value === '') return 'an empty text'
  let written = 'a value that cannot be shown'
  try {
    const options = { depth: 1, breakLength: Infinity, maxArrayLength: longest, maxStringLength: longest, customInspect: false }
    written = typeof value === 'string' ? JSON.stringify(value.slice(0, longest + 1)) : inspect(value, options)
  } catch {}
  return cut(written.replace(/\s+/g, ' '), longest)
}

/** Writes a name that came from outside for a sentence that needs no quotes around it: cut. */
export function cut(name: string, longest = LONGEST): string {
  return name.length > longest ? `${name.slice(0, longest).replace(/[\ud800-\udbff]$/, '')}…` : name
}

/**
 * Escapes what a file's name may hold but a line of a log or terminal may not: control characters and those that change the direction of
 * writing.
 */
export function printable(text: string): string {
  const hex = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, hex)
}

/** Writes bytes as download pages do, in powers of 10. */
export function bytesOf(count: number): string {
  return count >= 1e8 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(1)} MB`
}

/** Shortens a list: the first `most`, then how many more. */
export function shortened(items: string[], most = LISTED): string[] {
  const rest = items.length - most
  return rest > 0 ? [...items.slice(0, most), `and ${rest} more`] : items
}

/** Writes a list for a sentence, shortened. `separator`: between its items. */
export function listed(items: string[], separator = ', ', most = LISTED): string {
  return shortened(items, most).join(separator)
}

/** Throws an error named `AbortError` (code `ABORTED`) whose cause is the signal's reason. `what`: what was stopped, for its sentence. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (!signal?.aborted) return
  throw Object.assign(new LorafuseError('ABORTED', `${what} was stopped`, { cause: signal.reason }), { name: 'AbortError' })
}

/** Turns JavaScript's error of an array for which there is no memory into an `OUT_OF_MEMORY`; others, the core's included, stay as they are. */
export function memoryError(error: unknown): unknown {
  if (!(error instanceof RangeError && error.message.includes('allocation failed'))) return error
  const message = `Expected memory for an array but received none: ${error.message}; close other programs, or raise the limit`
  return new LorafuseError('OUT_OF_MEMORY', message, { cause: error })
}

/** Waits for what a caller asked for, whose errors become documented ones: whatever the signal stopped ends as `throwIfAborted`. */
export async function rejecting<Result>(work: Promise<Result>, signal?: AbortSignal, what = ''): Promise<Result> {
  try {
    return await work
  } catch (error) {
    if (signal?.aborted && error === signal.reason) throwIfAborted(signal, what)
    throw memoryError(error)
  }
}
