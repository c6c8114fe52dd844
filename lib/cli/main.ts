/** Runs a command for a shell: exit codes and signals. Results go to stdout, everything else to stderr. */
import { readFileSync } from 'node:fs'
import { cut, LorafuseError, shown } from '../errors.js'
import { parseArguments } from './arguments.js'
import type { Commands, Context } from './command.js'
import { Progress } from './progress.js'

const FAILED = 1
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129, SIGPIPE: 141 }
type Signal = keyof typeof SIGNALS

/**
 * Aborts on the first signal, which `received` then returns. A second Ctrl-C or SIGTERM kills the process at once, in the middle of a step;
 * SIGHUP counts once, as a terminal that closes may send several.
 */
function abortOnSignals(say: (text: string) => void): { signal: AbortSignal; received(): Signal | undefined; stop(): void } {
  const controller = new AbortController()
  let received: Signal | undefined
  const abort = (signal: Signal) => {
    received ??= signal
    controller.abort()
  }
  const kinds = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  let asked = false
  const onSignal = (signal: NodeJS.Signals) => {
    const again = asked
    asked ||= signal !== 'SIGHUP'
    if (again && signal !== 'SIGHUP') {
      stop()
      process.kill(process.pid, signal)
      return
    }
    if (received) return
    abort(signal as Signal)
    say('Stopping after the current step; interrupt again to stop at once.')
  }
  const stop = () => {
    for (const kind of kinds) process.off(kind, onSignal)
  }
  for (const kind of kinds) process.on(kind, onSignal)
  process.stdout.on('error', ({ code }: NodeJS.ErrnoException) => {
    // stdout's reader has gone: exit as SIGPIPE would, but with the state saved.
    if (code === 'EPIPE') return abort('SIGPIPE')
    // Its terminal has gone.
    if (code === 'EIO') return abort('SIGHUP')
    if (!controller.signal.aborted)
      process.stderr.write(`error OUTPUT_NOT_WRITABLE: Expected to be able to write to stdout but received ${code}\n`)
    process.exitCode = FAILED
    controller.abort()
  })
  process.stderr.on('error', () => undefined)
  return { signal: controller.signal, received: () => received, stop }
}

function colour(code: number, text: string): string {
  return process.stderr.isTTY && !process.env.NO_COLOR ? `\x1b[${code}m${text}\x1b[0m` : text
}

function report(error: unknown, json: boolean): void {
  const { code: known, message, stack }: NodeJS.ErrnoException = error instanceof Error ? error : new Error(String(error))
  const code = typeof known === 'string' ? known : 'INTERNAL'
  if (json) process.stdout.write(`${JSON.stringify({ type: 'error', code, message })}\n`)
  else process.stderr.write(`${colour(31, 'error')} ${code}: ${code === 'INTERNAL' ? (stack ?? message) : message}\n`)
}

/** Refuses words whose bytes are no UTF-8: Node replaces them, so that a folder of another name would be made. Throws `OPTION_INVALID`. */
function checkEncoding(words: string[]): void {
  if (!words.some((word) => word.includes('\ufffd'))) return
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let before = 'the command line'
  // As a buffer, since text would have lost the bytes already.
  for (const bytes of readFileSync('/proc/self/cmdline').toString('latin1').split('\0')) {
    try {
      before = decoder.decode(Buffer.from(bytes, 'latin1'))
    } catch (cause) {
      const received = cut(bytes.replace(/[\x80-\xff]/g, (byte) => `\\x${byte.charCodeAt(0).toString(16)}`))
      throw new LorafuseError('OPTION_INVALID', `Expected UTF-8 after ${shown(before)} but received the bytes ${received}; rename it`, {
        cause,
      })
    }
  }
}

/** Runs a command line, given without the program's name, and sets the exit code. */
export async function main(commands: Commands, words: string[]): Promise<void> {
  const json = words.includes('--json')
  const progress = new Progress(process.stderr)
  const signals = abortOnSignals((text) => progress.line(text))
  try {
    checkEncoding(words)
    const given = parseArguments(commands, words, process.stdout.columns)
    if (!given) return
    const context: Context = {
      ...given,
      signal: signals.signal,
      print: (text) => process.stdout.write(`${text}\n`),
      progress,
      warn: (code, message) => progress.line(`${colour(33, 'warning')} ${code}: ${message}`),
    }
    if (!(await commands[given.command]?.run(context))) process.exitCode = FAILED
  } catch (error) {
    progress.end()
    const received = signals.received()
    const stopped = signals.signal.aborted && (error as Error).name === 'AbortError'
    if (!stopped) report(error, json)
    process.exitCode = stopped && received ? SIGNALS[received] : FAILED
  } finally {
    progress.end()
    signals.stop()
  }
}
