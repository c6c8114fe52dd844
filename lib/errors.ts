/** The one error class of the package, how its sentences show values, and how a signal stops what runs. */
import { inspect } from 'node:util'

/** An error with one clear sentence and a stable, documented `code` such as `NO_IMAGES` or `SAFETENSORS_INVALID`. */
export class LorafuseError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(printable(message), options)
    this.name = 'LorafuseError'
    this.code = code
  }
}

const LONGEST = 80
const LISTED = 5

/** Writes a value that came from outside for a sentence: on one line, cut to 80 characters, whatever it is. */
export function shown(value: unknown): string {
  if (value === '') return 'an empty text'
  let written = 'a value that cannot be shown'
  try {
    const options = { depth: 1, breakLength: Infinity, maxArrayLength: LONGEST, maxStringLength: LONGEST, customInspect: false }
    written = typeof value === 'string' ? JSON.stringify(value.slice(0, LONGEST + 1)) : inspect(value, options)
  } catch {}
  return cut(written.replace(/\s+/g, ' '))
}

/** Cuts a name that came from outside. */
export function cut(name: string, longest = LONGEST): string {
  return name.length > longest ? `${name.slice(0, longest).replace(/[\ud800-\udbff]$/, '')}…` : name
}

/**
 * Escapes what a file's name may hold but a line of a log or terminal may not: control characters and those that change the direction of
 * writing. The line breaks of a list stay, as its items are indented.
 */
export function printable(text: string): string {
  const hex = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  return text.replace(/(?!\n {2})[\p{Cc}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, hex)
}

/** Writes a list for a sentence: the first `most`, then how many more. `separator`: between them. */
export function listed(items: string[], separator = ', ', most = LISTED): string {
  const rest = items.length - most
  return [...items.slice(0, most), ...(rest > 0 ? [`and ${rest} more`] : [])].join(separator)
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
