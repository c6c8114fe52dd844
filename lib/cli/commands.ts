/** The commands, one row each. */
import { dirname, join } from 'node:path'
import { type BenchEvent, runBench } from '../bench/bench.js'
import { benchSvg } from '../bench/picture.js'
import type { BenchRow } from '../bench/rows.js'
import { counted } from '../data/skipped.js'
import { describe, doctor } from '../doctor.js'
import { runGeneration } from '../draw/generate.js'
import type { ModelEvent, PlanEvent, TrainEvent } from '../events.js'
import { makeFolder, writeAtomically, writeError } from '../files/atomic.js'
import { resolve, resolveBenchOptions, resolveGenerateOptions, resolvePlanOptions, resolveTrainOptions } from '../options/resolve.js'
import { defaulted, optional, type Table } from '../options/rows.js'
import { benchGroups, generateGroups, planGroups, trainGroups } from '../options/table.js'
import { csvFile, flag, pictureFile, pngFile } from '../options/values.js'
import { writePicture } from '../pictures/chart.js'
import { type CurvePoint, lossCurvePng } from '../train/loss-curve.js'
import { memorySvg } from '../train/memory-picture.js'
import { runPlan } from '../train/plan.js'
import { runTraining } from '../train/run.js'
import { benchCsv, benchLine, describeBench } from './bench.js'
import type { Commands, Context } from './command.js'
import { describePlan } from './plan.js'
import { describeProfile } from './profile.js'
import { bucketList, downloadLine, downloadStartLine, memoryLines, stepLine } from './progress.js'
import { quote, without } from './shell.js'

/** Options that every command has. */
const common = {
  json: defaulted(flag, false, 'Print events as JSON lines on stdout instead of progress on stderr'),
  help: defaulted(flag, false, 'Show this help'),
}
const trainOnly = { lossCurve: optional(pngFile, 'PNG file for the loss curve', { defaultText: '<output>/<name>-loss.png' }), ...common }
const planOnly = {
  picture: optional(pictureFile, 'SVG or PNG file for a picture of the memory over the ops of a step', { defaultText: 'none' }),
  ...common,
  json: { ...common.json, help: 'Print the plan as one JSON object' },
}
const benchOnly = {
  csv: optional(csvFile, 'CSV file for the rows', { defaultText: 'none' }),
  picture: optional(pictureFile, 'SVG or PNG file for a picture of memory against time', { defaultText: 'none' }),
  ...common,
  json: { ...common.json, help: 'Print each row as a line of JSON on stdout instead of a table' },
}
const doctorOnly = { ...common, json: { ...common.json, help: 'Print the report as JSON' } }

export const commands: Commands = {
  train: { summary: 'Train a LoRA on a folder of images', options: { ...trainGroups, 'Command line': trainOnly }, run: runTrain },
  plan: {
    summary: 'Say what a training would take: memory, operations, time',
    options: { ...planGroups, 'Command line': planOnly },
    run: runPlanning,
  },
  generate: { summary: 'Generate images, with or without LoRAs', options: { ...generateGroups, 'Command line': common }, run: runGenerate },
  bench: {
    summary: 'Measure memory and speed of trainings on this machine',
    options: { ...benchGroups, 'Command line': benchOnly },
    run: runBenching,
  },
  doctor: { summary: 'Report whether this machine can train, and on what', options: { 'Command line': doctorOnly }, run: runDoctor },
}

/** Shows what reading a model tells; returns whether it was that. */
function showModel(event: { type: string }, { progress, warn }: Context): event is ModelEvent {
  const told = event as ModelEvent
  if (told.type === 'warning') warn(told.code, told.message)
  else if (told.type === 'download-start') progress.line(downloadStartLine(told))
  else if (told.type === 'download') progress.update(downloadLine(told), told.done === told.total)
  else return false
  return true
}

function showTrain(event: TrainEvent, context: Context): void {
  const { progress, print } = context
  if (showModel(event, context)) return
  if (event.type === 'memory') {
    for (const line of memoryLines(event)) progress.line(line)
  } else if (event.type === 'start') {
    const { model, steps, images, buckets, modules, parameters, resumedFrom } = event
    const from = resumedFrom > 0 ? `, from step ${resumedFrom}` : ''
    const size = `${counted(modules, 'module')}, ${parameters.toLocaleString('en')} parameters`
    progress.line(`model: ${model}`)
    progress.line(`${counted(images, 'image')} (${bucketList(buckets)}), ${counted(steps, 'step')}${from}; ${size}`)
  } else if (event.type === 'cache') {
    progress.update(`${event.kind} ${event.done}/${event.total}`, event.done === event.total)
  } else if (event.type === 'step') {
    progress.update(stepLine(event), event.step === event.steps)
  } else if (event.type === 'profile') {
    progress.line(describeProfile(event))
  } else if (event.type === 'checkpoint') {
    progress.line(`saved ${event.path}`)
  } else {
    progress.end()
    print(event.path)
  }
}

/** Checks the options that only the command line has, `own`; those in `rest` are left for the library to check. */
function split<Own extends Table>({ command, values, label }: Context, table: Own) {
  const part = (own: boolean) => Object.fromEntries(Object.entries(values).filter(([name]) => Object.hasOwn(table, name) === own))
  return { own: resolve(command, table, part(true), label), rest: part(false) }
}

async function runTrain(context: Context): Promise<boolean> {
  const { label, words, signal, print, progress } = context
  const { own, rest } = split(context, trainOnly)
  const options = resolveTrainOptions(rest, label)
  const points: CurvePoint[] = []
  let state: string | undefined
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'step') points.push({ step: event.step, loss: event.loss })
    if (event.type === 'checkpoint') state = event.statePath
    if (own.json) print(JSON.stringify(event))
    else showTrain(event, context)
  }
  /** What was trained is written by then, so that a curve which fails is a warning. */
  const drawCurve = async () => {
    if (points.length === 0) return
    const path = own.lossCurve ?? join(options.output, `${options.name}-loss.png`)
    try {
      await makeFolder(dirname(path))
      await writeAtomically(path, await lossCurvePng(points))
    } catch (cause) {
      const { message } = writeError(path, cause) as Error
      onEvent({ type: 'warning', code: 'NO_LOSS_CURVE', message: `The loss curve is not drawn: ${message}`, path })
    }
  }
  try {
    await runTraining(options, { signal, onEvent }, label)
  } catch (error) {
    await drawCurve()
    if ((error as Error).name !== 'AbortError') throw error
    const step = points.at(-1)?.step ?? 0
    const resume = quote(['train', ...without(words, '--resume'), '--resume'])
    if (own.json) print(JSON.stringify({ type: 'interrupted', step, statePath: state }))
    else if (state === undefined) progress.line('Stopped; there was nothing to save yet.')
    else progress.line(`Stopped after step ${step}; its state is saved in ${state}. Resume with:\n  lorafuse ${resume}`)
    throw error
  }
  await drawCurve()
  return true
}

async function runGenerate(context: Context): Promise<boolean> {
  const { label, signal, print, progress } = context
  const { own, rest } = split(context, common)
  await runGeneration(resolveGenerateOptions({ output: 'image.png', ...rest }, label), {
    signal,
    onEvent: (event) => {
      if (own.json) print(JSON.stringify(event))
      else if (showModel(event, context)) return
      else if (event.type === 'step') progress.update(`image ${event.picture}/${event.pictures}  step ${event.step}/${event.steps}`)
      else {
        progress.clear()
        print(event.path as string)
      }
    },
  })
  return true
}

async function runPlanning(context: Context): Promise<boolean> {
  const { own, rest } = split(context, planOnly)
  const onEvent = (event: PlanEvent) => {
    if (!own.json || event.type === 'warning') showModel(event, context)
  }
  const { label, signal, print } = context
  const plan = await runPlan(resolvePlanOptions(rest, label), { signal, onEvent }, label)
  print(own.json ? JSON.stringify(plan) : describePlan(plan))
  if (own.picture !== undefined) {
    await makeFolder(dirname(own.picture))
    await writePicture(own.picture, await memorySvg(plan))
  }
  return plan.fits
}

async function runBenching(context: Context): Promise<boolean> {
  const { own, rest } = split(context, benchOnly)
  const { label, signal, print, progress } = context
  const rows: BenchRow[] = []
  const onEvent = (event: BenchEvent) => {
    if (event.type === 'row') {
      rows.push(event.row)
      if (own.json) print(JSON.stringify(event.row))
    } else if (event.type === 'progress') progress.update(benchLine(event.setting, event.done, event.total, event.etaSeconds), true)
    else showModel(event, context)
  }
  /** Also of what has been measured when the rest is stopped. */
  const write = async () => {
    if (rows.length === 0) return
    progress.clear()
    if (!own.json) print(describeBench(rows))
    if (own.csv !== undefined) await writeAtomically(own.csv, benchCsv(rows))
    if (own.picture !== undefined) await writePicture(own.picture, await benchSvg(rows))
  }
  const options = resolveBenchOptions(rest, label)
  for (const path of [own.csv, own.picture]) if (path !== undefined) await makeFolder(dirname(path))
  await runBench(options, { signal, onEvent }, label).finally(write)
  return rows.every(({ outcome }) => outcome !== 'failed')
}

function runDoctor(context: Context): boolean {
  const { own } = split(context, doctorOnly)
  const report = doctor()
  context.print(own.json ? JSON.stringify(report) : describe(report))
  return report.ok
}
