/** The one error class of the package, and how a signal stops what runs. */

/** An error with one clear sentence and a stable, documented `code` such as `NO_IMAGES` or `SAFETENSORS_INVALID`. */
export class LorafuseError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'LorafuseError'
    this.code = code
  }
}

/** Throws an error named `AbortError` (code `ABORTED`) whose cause is the signal's reason. `what`: what was stopped, for its sentence. */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (!signal?.aborted) return
  throw Object.assign(new LorafuseError('ABORTED', `${what} was stopped`, { cause: signal.reason }), { name: 'AbortError' })
}
