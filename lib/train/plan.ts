/** `plan`: what a training would take, from the model's headers and the sizes of the images; no weights are read. */
import { adapterCount, parameterCount } from '../adapters/adapter.js'
import { type DatasetItem, scanDataset } from '../data/dataset.js'
import { availableMemory } from '../device.js'
import { rejecting } from '../errors.js'
import { Listener, type PlanEvent } from '../events.js'
import { readModel } from '../models/read.js'
import type { Speeds, StepDescription } from '../native.js'
import { type Card, freeBytes, memoryOf, nameOf } from '../options/cards.js'
import { asIs, type Label, type PlanOptions, type ResolvedPlanOptions, resolvePlanOptions } from '../options/resolve.js'
import { fittedRequirement, shortage } from './memory.js'
import { checkOptions, setUp } from './setup.js'

/** What a training would take. Bytes and seconds. */
export interface TrainingPlan {
  /** The model's family, what it predicts, and what says so. */
  model: string
  device: 'cpu' | 'cuda'
  /** The card that was named: its memory, how much of it is counted on, and what makes its estimate worse than others'. */
  gpu: { name: string; memory: number; free: number; note?: string } | undefined
  precision: 'f32' | 'fp16' | 'bf16'
  images: number
  steps: number
  modules: number
  parameters: number
  bytes: {
    weights: number
    /** The part of `weights` that kernels read in the mapped files. */
    mapped: number
    /** The LoRA, its gradients and what the optimizer keeps of it. */
    adapters: number
    gradients: number
    optimizer: number
    activations: number
    workspace: number
    /** Latents and captions, in this machine's memory. */
    caches: number
    /** What the session knows of each kind of step, in this machine's memory. */
    programs: number
    /** What saving needs of this machine's memory. */
    saving: number
    /** The planned peak of the device; on the CPU, caches and saving are part of it. */
    total: number
    /** Resident memory of the process to expect, Node's own included. */
    process: number
    /** Of the last checkpoint and its state. */
    disk: number
  }
  /** With `fit`: how many blocks and parts of blocks are computed again. */
  recomputed: number | undefined
  /** Whether the device and this machine have as much now; of a card that was named, whether it has. */
  fits: boolean
  /** Where it does not fit: how much is lacking, and what would fit. */
  shortage: string | undefined
  /** Of one batch, forward and backward: floating-point operations, and bytes that its ops read and write. */
  flops: number
  traffic: number
  /**
   * Of an optimizer step with all its batches, estimated from speeds that have just been measured; of a card that was named, from what it is
   * specified to do, an estimate that no card has confirmed.
   */
  secondsPerStep: number
  /** Of all steps; images and captions are encoded before. */
  seconds: number
  /** What is alive when most is, largest first, and how much is alive while each op of the step runs. */
  largest: StepDescription['largest']
  timeline: number[]
  /** How many of those ops are the forward pass: the loss is the last of them. */
  forward: number
}

export interface PlanContext {
  signal?: AbortSignal
  onEvent?: (event: PlanEvent) => unknown
}

/** Which of the measured ops an op is computed like. */
const LIKE: Record<string, string> = {
  attention: 'attention',
  attention_grad: 'attention_grad',
  conv2d: 'conv2d',
  conv_transpose2d: 'conv2d',
}

/** Each op takes as long as its operations or its bytes, whichever takes longer (a roofline, doi:10.1145/1498765.1498785). */
export function secondsOf({ nodes }: Pick<StepDescription, 'nodes'>, speeds: Speeds, launching = 0): number {
  return nodes.reduce((sum, { op, flops, bytes }) => {
    const rate = speeds.flops[LIKE[op] ?? 'mat_mul']!
    return sum + launching + Math.max(flops / rate, bytes / speeds.bytes)
  }, 0)
}

/**
 * What our kernels are taken to reach of a card's peaks, and the seconds that it takes to launch an op's. No card has confirmed it: it is the
 * cautious figure that docs/gpu.md works out for a step of SD1.5 on an RTX 2080 Ti, 69.3 ms where the peaks would take 35.9. Of it, 1351
 * launches of 836 ops take 1.7 µs each.
 */
const EFFICIENCY = 0.53
const LAUNCHING = 2.7e-6

/** What a card is taken to do a second, in all ops alike. */
function speedsOf({ tensor, f32, bandwidth }: Card, precision: TrainingPlan['precision']): Speeds {
  const rate = EFFICIENCY * (precision === 'f32' ? f32 : tensor)
  return { bytes: EFFICIENCY * bandwidth, flops: Object.fromEntries(['mat_mul', ...Object.values(LIKE)].map((op) => [op, rate])) }
}

/** Images of which nothing but their number is known. */
export function imagined(count: number, resolution: number): DatasetItem[] {
  const image = { path: '', repeats: 1, width: resolution, height: resolution, folder: '' }
  return Array.from({ length: count }, (_, i) => ({ ...image, caption: `${i}` }))
}

const aboutCard = (card: Card) => ({
  ...{ name: nameOf(card), memory: memoryOf(card), free: freeBytes(card) },
  ...(card.note !== undefined && { note: card.note }),
})

async function planTraining(options: ResolvedPlanOptions, context: PlanContext, label: Label): Promise<TrainingPlan> {
  const listener = new Listener(context.onEvent)
  const signal = context.signal ?? new AbortController().signal
  const { imageCount, gpu } = options
  const model = await readModel(options.model, options, { signal, onEvent: (event) => listener.emit(event) })
  checkOptions(options, model, label)
  const { items, warnings } =
    imageCount === undefined ? await scanDataset(options, signal) : { items: imagined(imageCount, options.resolution), warnings: [] }
  for (const warning of warnings) listener.emit({ type: 'warning', ...warning })
  const setup = setUp(model, options, label)
  const { chosen, session, adapters, buffers, saving } = setup
  try {
    // What other machines have besides their card is not known.
    const free = gpu ? Infinity : availableMemory()
    const planned = { ...setup, model, items, label, signal }
    const required = await fittedRequirement(planned, options, free)
    const { step, caches, programs, steps, recomputed } = required
    const description = session.describeStep(step.shapes)
    const speeds = gpu ? speedsOf(gpu, chosen.precision) : await session.speeds()
    const parameters = parameterCount(adapters.parameters)
    // An update reads value, gradient and what the optimizer keeps, and writes them all.
    const update = (2 * step.adapters) / speeds.bytes
    const secondsPerStep = options.gradientAccumulation * secondsOf(description, speeds, gpu && LAUNCHING) + update
    const short = await shortage(planned, options, required, free)
    await listener.settled(context.signal)
    return {
      ...{
        model: model.foundBy,
        device: chosen.device,
        gpu: gpu && aboutCard(gpu),
        precision: chosen.precision,
        images: items.length,
        steps,
      },
      ...{ modules: adapterCount(adapters), parameters },
      bytes: {
        ...{
          weights: step.weights,
          mapped: step.mapped,
          activations: step.activations,
          workspace: step.workspace,
          caches,
          programs,
          saving,
        },
        ...{ adapters: 4 * parameters, gradients: 4 * parameters, optimizer: step.adapters - 8 * parameters },
        ...{ total: required.total, process: required.process },
        disk: 4 * (buffers.reduce((sum, { count }) => sum + count, 0) + parameters),
      },
      recomputed,
      ...{ fits: short === undefined, shortage: short },
      flops: description.nodes.reduce((sum, { flops }) => sum + flops, 0),
      traffic: description.nodes.reduce((sum, { bytes }) => sum + bytes, 0),
      ...{ secondsPerStep, seconds: steps * secondsPerStep },
      ...{ largest: description.largest, timeline: description.nodes.map(({ alive }) => alive) },
      forward: 1 + description.nodes.findIndex(({ op }) => op === 'mse_loss'),
    }
  } finally {
    session.dispose()
  }
}

/**
 * Says what a training of these options would take: memory by kind, operations, time. Takes the options of `train`; `imageCount` may stand for
 * `images`, and `gpu` names a card that need not be there. Rejects as `train` does; `OUT_OF_MEMORY` only where `fit` is too little: else see `fits`.
 */
export async function plan(options: PlanOptions, context: PlanContext = {}): Promise<TrainingPlan> {
  return runPlan(resolvePlanOptions(options), context)
}

/** Plans with options that have been checked. */
export async function runPlan(options: ResolvedPlanOptions, context: PlanContext, label: Label = asIs): Promise<TrainingPlan> {
  return rejecting(planTraining(options, context, label), context.signal, 'The planning')
}
