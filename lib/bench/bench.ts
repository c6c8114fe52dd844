/** `bench`: memory and speed of trainings on the user's own machine, row by row. */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { rejecting, throwIfAborted } from '../errors.js'
import { Listener, type ModelEvent } from '../events.js'
import { readModel } from '../models/read.js'
import type { Speeds } from '../native.js'
import {
  asIs,
  type BenchOptions,
  type Label,
  type ResolvedBenchOptions,
  resolveBenchOptions,
  resolvePlanOptions,
} from '../options/resolve.js'
import { checkOptions } from '../train/setup.js'
import type { Answer, Request } from './measure.js'
import { type BenchRow, type BenchSetting, settingsOf } from './rows.js'

/** A row is about to be measured. */
export interface BenchProgressEvent {
  type: 'progress'
  setting: BenchSetting
  done: number
  total: number
  /** By the rows that are done; undefined before the first. */
  etaSeconds: number | undefined
}

/** A row has been measured. */
export interface BenchRowEvent {
  type: 'row'
  row: BenchRow
}

export type BenchEvent = ModelEvent | BenchProgressEvent | BenchRowEvent

export interface BenchContext {
  /** Ends the row that is being measured; `bench` then rejects with an error named `AbortError`. The rows before have been told. */
  signal?: AbortSignal
  onEvent?: (event: BenchEvent) => unknown
}

const measurer = fileURLToPath(new URL('./measure.js', import.meta.url))

/** Steps of a row are timed for no longer, where it is to be quick. */
const QUICK_SECONDS = 10

/** Measures in a process of its own, which ends with the signal. */
function measured(request: Request, signal: AbortSignal | undefined): Promise<Answer> {
  return new Promise((resolve) => {
    const child = fork(measurer, [], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], execArgv: [] })
    let received: Answer | undefined
    const failed = (message: string) => resolve({ outcome: 'failed', code: 'INTERNAL', message })
    const stop = () => child.kill('SIGKILL')
    signal?.addEventListener('abort', stop)
    child.on('message', (answer: Answer) => (received = answer))
    child.on('error', ({ message }) => failed(message))
    child.on('exit', (code, killedBy) => {
      signal?.removeEventListener('abort', stop)
      // Not before: the next row finds the memory that this one held.
      if (received) return resolve(received)
      failed(
        killedBy === 'SIGKILL'
          ? 'its process was killed, as the system does where memory runs out'
          : `its process ended with ${killedBy ?? code}`,
      )
    })
    child.send(request, (error) => error && failed(error.message))
  })
}

function rowOf(setting: BenchSetting, answer: Answer): BenchRow {
  if (answer.outcome === 'measured') return { ...setting, outcome: 'measured', ...answer.measured }
  if (answer.outcome === 'too large') return { ...setting, outcome: 'too large', ...answer.planned }
  return { ...setting, outcome: 'failed', message: `${answer.code}: ${answer.message}` }
}

async function measureAll(options: ResolvedBenchOptions, context: BenchContext, label: Label): Promise<BenchRow[]> {
  const { signal } = context
  const listener = new Listener(context.onEvent)
  const { model, vae, textEncoder, device, precision, threads, steps, quick } = options
  const seconds = quick ? QUICK_SECONDS : undefined
  const shared = { model, vae, textEncoder, device, precision, threads, steps: 1 }
  const settings = settingsOf(options).map((setting) => ({
    setting,
    options: resolvePlanOptions({ ...shared, ...setting, imageCount: setting.batchSize }, label),
  }))
  // Fetched, and found wrong, once and for all.
  const read = await readModel(model, options, { signal: signal ?? new AbortController().signal, onEvent: (event) => listener.emit(event) })
  checkOptions(settings[0]!.options, read, label)
  const rows: BenchRow[] = []
  let speeds: Speeds | undefined
  const began = performance.now()
  for (const [done, { setting, options }] of settings.entries()) {
    throwIfAborted(signal, 'The bench')
    const elapsed = (performance.now() - began) / 1000
    const etaSeconds = done === 0 ? undefined : (elapsed / done) * (settings.length - done)
    listener.emit({ type: 'progress', setting, done, total: settings.length, etaSeconds })
    const answer = await measured({ options, steps, seconds, speeds }, signal)
    throwIfAborted(signal, 'The bench')
    if (answer.outcome === 'measured') speeds = answer.speeds
    const row = rowOf(setting, answer)
    rows.push(row)
    listener.emit({ type: 'row', row })
  }
  await listener.settled(signal)
  return rows
}

/** Measures with options that have been checked. */
export async function runBench(options: ResolvedBenchOptions, context: BenchContext, label: Label = asIs): Promise<BenchRow[]> {
  return rejecting(measureAll(options, context, label), context.signal, 'The bench')
}

/**
 * Measures memory and speed of a training for each combination of ranks, targets, resolutions, batch sizes and recomputation, with the model's
 * own weights and random latents and texts, each in a process of its own. What does not fit, or fails, is a row as well. Throws what reading
 * the options and the model throws.
 */
export async function bench(options: BenchOptions, context: BenchContext = {}): Promise<BenchRow[]> {
  return runBench(resolveBenchOptions(options), context)
}
