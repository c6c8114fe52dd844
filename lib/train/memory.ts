/** Compares a training's memory plan with what the machine has, before anything is cached, and says what would fit if it does not. */
import type { DatasetItem } from '../data/dataset.js'
import { availableMemory, type Computation } from '../device.js'
import { LorafuseError } from '../errors.js'
import type { StartEvent } from '../events.js'
import type { Model } from '../models/model.js'
import { chunksOf, contextLength, encodeSettings, textIdsShapes } from '../models/text.js'
import type { MemoryPlan, Session } from '../native.js'
import type { Label, ResolvedTrainOptions } from '../options/resolve.js'
import { trainTable } from '../options/table.js'
import { type Turn, turns } from '../turns.js'
import { cachedBytes } from './cache.js'
import { stepShapes } from './inputs.js'
import { assignBuckets, makeBatches, stepsOf } from './training-images.js'

/** What a plan is made for, besides the options. */
export interface Planned {
  session: Pick<Session, 'planStep' | 'planRun' | 'fitStep' | 'availableBytes'>
  model: Model
  items: DatasetItem[]
  chosen: Computation
  label: Label
  /** The last update whose steps encode their text; 0 where none does. */
  lastTextStep: number
  /** Bytes of this machine's memory that saving needs. */
  saving: number
  /** Stops the planning, which then throws the signal's reason. */
  signal?: AbortSignal
}

const largest = <Plan extends Pick<MemoryPlan, 'total'>>(plans: Plan[]) =>
  plans.reduce((most, plan) => (plan.total > most.total ? plan : most))

/**
 * Returns how many bytes of a plan are still to be allocated. The adapters have been; pages of mapped files are dropped and read again when
 * memory is short.
 */
function missing({ weights, mapped, activations, workspace }: MemoryPlan): number {
  return weights - mapped + activations + workspace
}

/** The batch size and the bucket of a step. */
interface Shape {
  count: number
  width: number
  height: number
}

/** Leaves out the steps that need no more than another, whose batch, width and height are all at least theirs. */
async function largestShapes(shapes: Shape[], turn: Turn): Promise<Shape[]> {
  const kept: Shape[] = []
  // A step that covers another comes before it.
  for (const shape of shapes.sort((a, b) => b.count - a.count || b.width - a.width || b.height - a.height)) {
    const covered = kept.some(({ count, width, height }) => count >= shape.count && width >= shape.width && height >= shape.height)
    if (!covered) kept.push(shape)
    await turn()
  }
  return kept
}

/** A plan, and the shapes of its step's inputs. */
type StepPlan = MemoryPlan & { shapes: Record<string, number[]> }

/** What a process needs besides its plan: see "Speed and memory" in docs/benchmarks.md. */
export const PROCESS_BYTES = 300 * 2 ** 20

/**
 * What a training takes: of the session, the plan of the largest bucket's step and the peak of what is still to be allocated; of the host,
 * `caches`, the `programs` of the steps and what saving needs among it.
 */
export interface Requirement {
  step: StepPlan
  session: number
  host: number
  caches: number
  programs: number
  programCount: number
  /** All that the session holds while images and captions are cached. */
  caching: number
  /** The planned peak of the device; on the CPU, `host` is part of it. */
  total: number
  /** Resident memory of this process to expect. */
  process: number
  /** Optimizer steps. */
  steps: number
}

export async function requirement(
  { session, model, items, lastTextStep, saving, signal }: Planned,
  options: ResolvedTrainOptions,
): Promise<Requirement> {
  const turn = turns(signal)
  const images = await assignBuckets(items, options, signal)
  const batches = makeBatches(images, options)
  const fullest = batches.fullest()
  const trainsText = lastTextStep > 0
  const steps = stepsOf(batches, options)
  const caches = cachedBytes(images, model, options, lastTextStep < steps)
  const shapes = fullest.map((batch) => ({ ...images[batch[0]!]!.bucket, count: batch.length }))
  const sizes = { ...model, contextLength: contextLength(model, options) }
  const plans: StepPlan[] = []
  const encoders: MemoryPlan[] = []
  for (const { count, width, height } of await largestShapes(shapes, turn)) {
    await turn()
    const text = trainsText ? textIdsShapes(model, count, options) : undefined
    const inputs = stepShapes(sizes, count, height / model.factor, width / model.factor, text)
    const recompute = options.fit === undefined ? options.gradientCheckpointing : undefined
    plans.push({ ...session.planStep(inputs, recompute), shapes: inputs })
    encoders.push(session.planRun(model.family.vae, 'encode', { pixels: [1, height, width, 3] }))
  }
  // Captions that the steps encode are not cached.
  const texts = (trainsText ? [] : model.family.text).map((encoding) => {
    const { network, pooled } = encoding
    const ids = [chunksOf(options), model.tokenizers[network]!.length]
    return session.planRun(network, 'encode', { ids, ...(pooled && { last: [1] }) }, encodeSettings(encoding, options.clipSkip))
  })
  const step = largest(plans)
  // While images and captions are cached, all encoders are loaded and share the largest arena; they are released before training.
  const caching = [...texts, largest(encoders)].reduce((all, one) => {
    const larger = one.activations + one.workspace > all.activations + all.workspace ? one : all
    return { ...larger, weights: all.weights + one.weights, mapped: all.mapped + one.mapped }
  })
  const held = caching.weights + step.adapters + caching.activations + caching.workspace
  const programCount = Math.min(batches.shapes, steps * options.gradientAccumulation)
  const programs = programCount * step.program
  const host = caches + programs + saving
  const isShared = session.availableBytes() === undefined
  const total = step.total + (isShared ? host : 0)
  return {
    ...{ step, session: Math.max(missing(step), missing(caching)), host, caches, programs, programCount },
    ...{ caching: held, total, process: (isShared ? total : host) + PROCESS_BYTES, steps },
  }
}

/** Finds the largest number from 1 to `most` that fits, 0 if none does, by bisection. */
async function largestFitting(most: number, fits: (value: number) => Promise<boolean>): Promise<number> {
  let [low, high] = [0, most]
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (await fits(middle)) low = middle
    else high = middle - 1
  }
  return low
}

/** Says what would fit instead. `onGpu`: it is the GPU's memory that is too little. */
async function advice(
  options: ResolvedTrainOptions,
  { chosen: { precision }, label }: Planned,
  onGpu: boolean,
  fits: (change: Partial<ResolvedTrainOptions>) => Promise<boolean>,
): Promise<string> {
  const lower = onGpu && precision === 'f32' ? `, or try ${label('precision')} fp16` : ''
  const saving = { gradientCheckpointing: true }
  if (!options.gradientCheckpointing && (await fits(saving))) return `${label('gradientCheckpointing')} would fit${lower}`
  const named = async (change: Partial<ResolvedTrainOptions>, others: string[]) => {
    const more = (await fits(change)) ? others : [...others, label('gradientCheckpointing')]
    return `${more.length > 0 ? ` with ${more.join(' and ')}` : ''} would fit${lower}`
  }
  const batchSize = await largestFitting(options.batchSize - 1, (value) => fits({ ...saving, batchSize: value }))
  if (batchSize > 0) return `${label('batchSize')} ${batchSize}${await named({ batchSize }, [])}`
  const { bucketStep } = options
  const most = Math.ceil(options.resolution / bucketStep) - 1
  const of = (steps: number) => ({ batchSize: 1, resolution: steps * bucketStep })
  const { resolution } = of(await largestFitting(most, (value) => fits({ ...saving, ...of(value) })))
  const batch = options.batchSize > 1 ? [`${label('batchSize')} 1`] : []
  // What fits may be less than the option can be.
  if (resolution >= trainTable.resolution.kind.min!)
    return `${label('resolution')} ${resolution}${await named({ batchSize: 1, resolution }, batch)}`
  return `no ${label('batchSize')} or ${label('resolution')} would fit${lower}`
}

/** With `fit`, `recomputed` is how many blocks and parts of blocks are computed again. */
export type FittedRequirement = Requirement & { recomputed?: number }

/**
 * Returns what a training takes. With `fit`, chooses what steps compute again to stay within it: on a GPU its memory, on the CPU that of the
 * process. Throws `OUT_OF_MEMORY` if that is not enough.
 */
export async function fittedRequirement(
  planned: Planned,
  options: ResolvedTrainOptions,
  free = availableMemory(),
): Promise<FittedRequirement> {
  const { fit } = options
  if (fit === undefined) return requirement(planned, options)
  const { session, label } = planned
  const freeOnGpu = session.availableBytes()
  const isShared = freeOnGpu === undefined
  const kept = await requirement(planned, { ...options, fit: undefined, gradientCheckpointing: false })
  const { step } = kept
  // The adapters are allocated by now.
  const there = isShared ? free : freeOnGpu + step.adapters
  const limit = fit === 'auto' ? there : fit
  const besides = isShared ? kept.host - kept.programs + PROCESS_BYTES : 0
  const count = session.fitStep(step.shapes, Math.max(0, limit - besides), isShared ? kept.programCount : 0)
  // Another bucket's step may take more, once this one computes parts again.
  const fitted = await requirement(planned, options)
  const total = count === undefined ? session.planStep(step.shapes, true).total : fitted.step.total
  const least = Math.max(total, fitted.caching) + besides + (isShared ? fitted.programs : 0)
  if (count !== undefined && least <= limit) return { ...fitted, recomputed: count }
  const [wanted, received] = [Math.ceil(least / 2 ** 20), Math.floor(limit / 2 ** 20)]
  const lower = `lower ${label('resolution')} or ${label('batchSize')}`
  throw new LorafuseError('OUT_OF_MEMORY', `Expected at least ${wanted} MiB for ${label('fit')} but received ${received} MiB; ${lower}`)
}

/** What a training takes, and the total were `gradientCheckpointing` the other way. */
export interface PlannedMemory {
  memory: StartEvent['memory']
  otherwise: number
  /** With `fit`: how many blocks and parts of blocks are computed again. */
  recomputed: number | undefined
}

/** Says where memory is too little, if it is: on the GPU, or in this machine, where `free` bytes are. */
export function lacking(planned: Pick<Planned, 'session'>, { session, host }: Requirement, free: number) {
  const freeOnGpu = planned.session.availableBytes()
  if (freeOnGpu !== undefined && session > freeOnGpu) return { needed: session, received: freeOnGpu, onGpu: true }
  const needed = freeOnGpu === undefined ? session + host : host
  return needed > free ? { needed, received: free, onGpu: false } : undefined
}

/** Says how much memory a training lacks, and what would fit instead; undefined where there is enough. `free`: of this machine's. */
export async function shortage(planned: Planned, options: ResolvedTrainOptions, required: Requirement, free: number) {
  const lack = lacking(planned, required, free)
  if (!lack) return undefined
  const fits = async (change: Partial<ResolvedTrainOptions>) =>
    !lacking(planned, await requirement(planned, { ...options, ...change }), free)
  const { needed, received, onGpu } = lack
  const [wanted, there] = [Math.ceil(needed / 2 ** 20), Math.floor(received / 2 ** 20)]
  const message = `Expected ${wanted} MiB of free memory${onGpu ? ' on the GPU' : ''} for this training but received ${there} MiB`
  return `${message}; ${await advice(options, planned, onGpu, fits)}`
}

/**
 * Plans the memory of a training whose adapters are attached. Throws `OUT_OF_MEMORY` with what would fit, or the signal's reason. `free`: how
 * many bytes of this machine's memory there are.
 */
export async function planMemory(planned: Planned, options: ResolvedTrainOptions, free = availableMemory()): Promise<PlannedMemory> {
  const { session } = planned
  const isShared = session.availableBytes() === undefined
  const required = await fittedRequirement(planned, options, free)
  const { host, programCount, total, recomputed } = required
  const { shapes, ...step } = required.step
  const short = await shortage(planned, options, required, free)
  if (short !== undefined) throw new LorafuseError('OUT_OF_MEMORY', short)
  const other = session.planStep(shapes, !options.gradientCheckpointing && recomputed === undefined)
  const programs = isShared ? programCount * (other.program - step.program) : 0
  const otherwise = total + other.total - step.total + programs
  return { memory: { ...step, host, total }, otherwise, recomputed }
}
