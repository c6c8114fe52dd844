/** A process of its own for each row of a bench, so that the peaks of memory do not mix: told what to measure, it answers and ends. */
import { type Adapters, initialWeights } from '../adapters/adapter.js'
import { fileTensors } from '../adapters/files.js'
import { availableMemory } from '../device.js'
import type { LorafuseError } from '../errors.js'
import { readSystem } from '../files/read.js'
import { headerBytes, packTensors } from '../files/safetensors.js'
import { loraPrefixes, type Model } from '../models/model.js'
import { readModel } from '../models/read.js'
import type { Inputs, Session, Speeds } from '../native.js'
import { asIs, type ResolvedPlanOptions } from '../options/resolve.js'
import { normal } from '../random.js'
import { LossScale } from '../train/loss-scale.js'
import { lacking, requirement } from '../train/memory.js'
import { imagined } from '../train/plan.js'
import { checkOptions, setUp } from '../train/setup.js'
import type { BenchMeasurement } from './rows.js'

export interface Request {
  options: ResolvedPlanOptions
  steps: number
  /** After so many seconds no other step is timed. */
  seconds: number | undefined
  /** As an earlier row found them. */
  speeds: Speeds | undefined
}

export type Answer =
  | { outcome: 'measured'; measured: BenchMeasurement; speeds: Speeds }
  | { outcome: 'too large'; planned: Pick<BenchMeasurement, 'plannedBytes' | 'plannedProcessBytes' | 'loraBytes'> }
  | { outcome: 'failed'; code: string; message: string }

/** Inputs of a step: noise, half of each of latents and noise, a timestep in the middle. */
function randomInputs(shapes: Record<string, number[]>): Inputs {
  const data = (name: string, count: number, index: number) => {
    if (name === 'coefficients') return new Float32Array(count).fill(Math.SQRT1_2)
    if (name === 'target_coefficients') return Float32Array.from({ length: count }, (_, i) => i % 2)
    if (name === 'timesteps') return new Float32Array(count).fill(500)
    return normal({ seed: 0, stream: 'noise', step: 1, index }, count)
  }
  const made = Object.entries(shapes).map(([name, shape], i) => {
    const count = shape.reduce((product, length) => product * length, 1)
    return [name, { shape, data: data(name, count, i) }]
  })
  return Object.fromEntries(made) as Inputs
}

async function loraBytes(model: Model, adapters: Adapters, weights: Float32Array): Promise<number> {
  const packed = await packTensors(await fileTensors('kohya', adapters, weights, 'F16', loraPrefixes(model.family, model.networks)))
  return headerBytes(packed, {}).length + packed.data.reduce((sum, { length }) => sum + length, 0)
}

/** Returns the most memory of this process that was resident. Trap: `resourceUsage` begins with what the parent had. */
function residentPeak(): number {
  const [, kibibytes = 0] = /^VmHWM:\s+(\d+) kB$/m.exec(readSystem('/proc/self/status')) ?? []
  return Number(kibibytes) * 1024
}

const median = (values: number[]) => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Times steps as a training makes them: the next batch is loaded while one is computed. */
async function timeSteps(
  session: Session,
  shapes: Record<string, number[]>,
  { steps, seconds: limit = Infinity }: Request,
  warmup: number,
  lossScale: number,
) {
  const inputs = randomInputs(shapes)
  const n = shapes.latents![0]!
  const weights = new Float32Array(n).fill(lossScale / n)
  const update = { groups: [{ learningRate: 1e-4, weightDecay: 0.01 }], maxGradNorm: 1, lossScale }
  const seconds: number[] = []
  const timed = () => seconds.slice(warmup)
  await session.prepare(shapes)
  await session.load(inputs)
  for (let step = 1; step <= warmup + steps; step++) {
    const began = performance.now()
    const stepping = session.step(weights, { ...update, step })
    await Promise.all([stepping, session.load(inputs)])
    // Waits for a GPU.
    await session.norm()
    seconds.push((performance.now() - began) / 1000)
    if (timed().reduce((sum, each) => sum + each, 0) > limit) break
  }
  return median(timed())
}

async function measure(request: Request): Promise<Answer> {
  const { options, speeds } = request
  const model = await readModel(options.model, options, {})
  checkOptions(options, model, asIs)
  const setup = setUp(model, options, asIs)
  const { session, adapters, chosen } = setup
  const onGpu = session.availableBytes()
  const weights = await initialWeights(adapters, options.seed)
  const items = imagined(options.batchSize, options.resolution)
  const required = await requirement({ ...setup, model, items, label: asIs }, options)
  const { step } = required
  const planned = {
    ...{ plannedBytes: required.total, plannedProcessBytes: required.process },
    loraBytes: await loraBytes(model, adapters, weights),
  }
  if (lacking(setup, required, availableMemory())) return { outcome: 'too large', planned }
  session.write('weights', weights)
  const flops = session.describeStep(step.shapes).nodes.reduce((sum, node) => sum + node.flops, 0)
  const secondsPerStep = await timeSteps(
    session,
    step.shapes,
    request,
    // A GPU captures the second step.
    onGpu === undefined ? 1 : 3,
    new LossScale(chosen, undefined).state.value,
  )
  const deviceBytes = onGpu === undefined ? undefined : step.adapters + onGpu - session.availableBytes()!
  const processBytes = residentPeak()
  const found = speeds ?? (await session.speeds())
  session.dispose()
  const measured = {
    ...planned,
    ...{ processBytes, deviceBytes, secondsPerStep, imagesPerSecond: options.batchSize / secondsPerStep },
    ...{ flops, ofPeak: flops / secondsPerStep / found.flops.mat_mul! },
  }
  return { outcome: 'measured', measured, speeds: found }
}

// Ctrl-C of a terminal reaches this process too: the parent ends it.
process.on('SIGINT', () => undefined)
process.on('disconnect', () => process.exit())
process.once('message', async (request: Request) => {
  const answer = await measure(request).catch((error: unknown): Answer => {
    const { code = 'INTERNAL', message } = error as LorafuseError
    return { outcome: 'failed', code, message }
  })
  process.send!(answer, () => process.exit())
})
