/** What each command does with its options. */
import { dirname, join } from 'node:path'
import { describe, doctor } from '../doctor.js'
import { generate } from '../draw/generate.js'
import type { TrainEvent } from '../events.js'
import { makeFolder, writeAtomically } from '../files/atomic.js'
import { type GenerateOptions, resolve, resolveGenerateOptions, resolveTrainOptions, type TrainOptions } from '../options/resolve.js'
import { commandLine, generateTable, type Table, trainTable } from '../options/table.js'
import { train } from '../train/run.js'
import type { Arguments } from './arguments.js'
import { type CurvePoint, lossCurvePng } from './loss-curve.js'
import { memory, type Progress, stepLine } from './progress.js'
import { quote, without } from './shell.js'

export interface Context extends Arguments {
  signal: AbortSignal
  /** Writes a line of the result. */
  print(text: string): void
  progress: Progress
  warn(code: string, message: string): void
}

/** Runs a command; false: it found that things are not as they should be. Throws what the command throws. */
export async function run(context: Context): Promise<boolean> {
  if (context.command === 'train') await runTrain(context)
  else if (context.command === 'generate') await runGenerate(context)
  else return runDoctor(context)
  return true
}

function showTrain(event: TrainEvent, { progress, print, warn }: Context): void {
  if (event.type === 'start') {
    const { steps, images, modules, parameters, resumedFrom } = event
    const from = resumedFrom > 0 ? `, from step ${resumedFrom}` : ''
    const size = `${modules} modules, ${parameters.toLocaleString('en')} parameters, ${memory(event.memory.total)} planned`
    progress.line(`${images} images, ${steps} steps${from}; ${size}`)
  } else if (event.type === 'warning') {
    warn(event.code, event.message)
  } else if (event.type === 'cache') {
    progress.update(`${event.kind} ${event.done}/${event.total}`, event.done === event.total)
  } else if (event.type === 'step') {
    progress.update(stepLine(event), event.step === event.steps)
  } else if (event.type === 'checkpoint') {
    progress.line(`saved ${event.path}`)
  } else {
    progress.end()
    print(event.path)
  }
}

/** Splits what was given into the library's options and the checked ones that only the command line has, `own`. */
function split<Own extends Table>({ command, values, label }: Arguments, table: Table, own: Own) {
  const pick = (from: Table) => Object.fromEntries(Object.entries(values).filter(([name]) => Object.hasOwn(from, name)))
  return { given: pick(table), own: resolve(command, own, pick(own), label) }
}

async function runTrain(context: Context): Promise<void> {
  const { label, words, signal, print, progress } = context
  const { given, own } = split(context, trainTable, commandLine.train)
  const { output, name } = resolveTrainOptions(given, label)
  const points: CurvePoint[] = []
  const drawCurve = async () => {
    if (points.length === 0) return
    const path = own.lossCurve ?? join(output, `${name}-loss.png`)
    await makeFolder(dirname(path))
    await writeAtomically(path, await lossCurvePng(points))
  }
  let state: string | undefined
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'step') points.push({ step: event.step, loss: event.loss })
    if (event.type === 'checkpoint') state = event.statePath
    if (own.json) print(JSON.stringify(event))
    else showTrain(event, context)
  }
  try {
    await train(given as unknown as TrainOptions, { signal, onEvent })
  } catch (error) {
    // What stopped the run is worth more than what stops the picture.
    await drawCurve().catch(() => undefined)
    if ((error as Error).name !== 'AbortError') throw error
    const step = points.at(-1)?.step ?? 0
    if (own.json) print(JSON.stringify({ type: 'interrupted', step, statePath: state }))
    else if (state === undefined) progress.line('Stopped; there was nothing to save yet.')
    else progress.line(`Stopped after step ${step}; the state is ${state}. Go on with:\n  ${resumeCommand(words)}`)
    throw error
  }
  await drawCurve()
}

function resumeCommand(words: string[]): string {
  return `lorafuse ${quote(['train', ...without(words, '--resume'), '--resume'])}`
}

async function runGenerate(context: Context): Promise<void> {
  const { label, signal, print, progress } = context
  const { given, own } = split(context, generateTable, commandLine.generate)
  given.output ??= 'image.png'
  resolveGenerateOptions(given, label)
  await generate(given as unknown as GenerateOptions, {
    signal,
    onEvent: (event) => {
      if (own.json) print(JSON.stringify(event))
      else if (event.type === 'step') progress.update(`picture ${event.picture}/${event.pictures}  step ${event.step}/${event.steps}`)
      else {
        progress.clear()
        print(event.path as string)
      }
    },
  })
}

function runDoctor(context: Context): boolean {
  const { own } = split(context, {}, commandLine.doctor)
  const report = doctor()
  context.print(own.json ? JSON.stringify(report) : describe(report))
  return report.ok
}
