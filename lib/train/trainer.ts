/** The loop: noise, steps, updates, events, checkpoints. Noise, timesteps and loss as kohya-ss/sd-scripts:train_network.py. */
import { type Adapter, parameterCount } from '../adapters/adapters.js'
import type { Batch, Batches } from '../data/batches.js'
import { LorafuseError, throwIfAborted } from '../errors.js'
import type { TrainEvent } from '../events.js'
import type { SchedulerConfig } from '../models/configs.js'
import { alphasCumprod } from '../models/schedule.js'
import type { MemoryPlan, Session, StepInput } from '../native.js'
import { learningRateAt } from '../options/lr-schedulers.js'
import { integer, normal } from '../random.js'
import { isMirrored, type Latents } from './cache.js'
import type { LossScale } from './loss-scale.js'
import { type TrainingFacts, trainingMetadata } from './metadata.js'
import type { Occasion, Output, Saved } from './output.js'
import type { Identity } from './state.js'

export interface TrainContext {
  /** Stops the training after the step in hand, its state saved; `train` then rejects with an error named `AbortError`. */
  signal?: AbortSignal | undefined
  onEvent?: ((event: TrainEvent) => void) | undefined
}

/** What an image trains with. */
export interface Sample {
  latents: Latents
  /** `[tokens, crossAttentionDim]` */
  context: Float32Array
}

export interface TrainerOptions {
  /** With the adapters attached, and as they are after update `from`. */
  session: Session
  samples: Sample[]
  /** Of a context. */
  tokens: number
  batches: Batches
  adapters: Adapter[]
  output: Output
  identity: Identity
  facts: TrainingFacts
  scheduler: SchedulerConfig
  lossScale: LossScale
  /** The last update that is done; 0: none. */
  from: number
}

export interface Finished extends Saved {
  /** Updates done, those before a resumption included. */
  step: number
  /** Of the last update; undefined where none was left to do. */
  loss: number | undefined
}

const ADAM = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }

/** Parts of one length, one after the other; a single one as it is. */
function join(parts: Float32Array[]): Float32Array {
  const first = parts[0]!
  if (parts.length === 1) return first
  const joined = new Float32Array(first.length * parts.length)
  for (const [i, part] of parts.entries()) joined.set(part, i * first.length)
  return joined
}

export class Trainer {
  private readonly alphas: Float64Array
  /** Losses of the last epoch's worth of updates. */
  private readonly recent: number[] = []
  /** The last update that a state holds. */
  private savedStep: number
  /** Batches that are not loaded yet. */
  private readonly upcoming: Iterator<StepInput>
  private began = 0

  constructor(
    private readonly options: TrainerOptions,
    private readonly context: TrainContext,
  ) {
    this.alphas = alphasCumprod(options.scheduler)
    this.savedStep = options.from
    this.upcoming = this.inputs()
  }

  private emit(event: TrainEvent): void {
    this.context.onEvent?.(event)
  }

  /** The largest of the buckets' plans. */
  private plan(): MemoryPlan {
    const { session, samples, batches, tokens } = this.options
    const plans = batches.fullest().map((batch) => {
      const { height, width } = samples[batch[0]!]!.latents
      return session.plan([batch.length, height, width], tokens)
    })
    return plans.reduce((largest, plan) => (plan.total > largest.total ? plan : largest))
  }

  /** What update `step` computes for a batch whose first sample is the update's `offset`th. */
  private input(batch: Batch, step: number, offset: number): StepInput {
    const { samples, facts } = this.options
    const { seed, flip } = facts.options
    const chosen = batch.map((i) => samples[i]!)
    const { height, width } = chosen[0]!.latents
    const place = (i: number) => ({ seed, step, index: offset + i })
    const mirrored = (i: number) => flip && isMirrored(seed, step, offset + i)
    const latents = join(chosen.map(({ latents }, i) => (mirrored(i) ? latents.mirrored! : latents.plain)))
    const count = latents.length / batch.length
    const timesteps = batch.map((_, i) => integer({ ...place(i), stream: 'timesteps' }, this.alphas.length))
    return {
      shape: [batch.length, height, width],
      latents,
      noise: join(batch.map((_, i) => normal({ ...place(i), stream: 'noise' }, count))),
      coefficients: Float32Array.from(timesteps.flatMap((t) => [Math.sqrt(this.alphas[t]!), Math.sqrt(1 - this.alphas[t]!)])),
      timesteps: Float32Array.from(timesteps),
      context: join(chosen.map(({ context }) => context)),
    }
  }

  /** Of all updates that are left. */
  private *inputs(): Generator<StepInput> {
    const { batches, facts, from } = this.options
    for (let step = from + 1; step <= facts.steps; step++) {
      let count = 0
      for (const batch of batches.of(step)) {
        yield this.input(batch, step, count)
        count += batch.length
      }
    }
  }

  private async loadNext(): Promise<void> {
    const { done, value } = this.upcoming.next()
    if (!done) await this.options.session.load(value)
  }

  private async save(occasion: Occasion, step: number): Promise<Saved> {
    const { session, output, facts, identity, lossScale } = this.options
    const state = {
      step,
      lossScale: lossScale.state,
      run: facts.run,
      weights: session.readAdapters('weights'),
      firstMoment: session.readAdapters('firstMoment'),
      secondMoment: session.readAdapters('secondMoment'),
    }
    const saved = await output.save(occasion, state, identity, trainingMetadata(facts, step, Date.now() / 1000))
    this.savedStep = step
    return saved
  }

  private async checkpoint(occasion: Occasion, step: number): Promise<Saved> {
    const saved = await this.save(occasion, step)
    this.emit({ type: 'checkpoint', step, ...saved })
    return saved
  }

  /** kohya's occasions: every so many steps, the last included; every so many epochs, the last left to the finished file. */
  private async saveWhereDue(step: number): Promise<void> {
    const { facts, batches } = this.options
    const { saveEvery, saveEveryEpochs } = facts.options
    if (saveEvery > 0 && step % saveEvery === 0) await this.checkpoint({ step }, step)
    const epoch = batches.epochOf(step)
    const epochEnds = step % batches.updatesPerEpoch === 0 && step < facts.steps
    if (saveEveryEpochs !== undefined && epochEnds && epoch % saveEveryEpochs === 0) await this.checkpoint({ epoch }, step)
  }

  /** `step`: the last one that is done. */
  private async stopIfAborted(step: number): Promise<void> {
    const { signal } = this.context
    if (signal?.aborted && step > this.savedStep) await this.checkpoint({ step }, step)
    throwIfAborted(signal, 'The training')
  }

  /** Update `step` has no finite loss or gradient and changed nothing: the one before it is saved. */
  private async diverged(step: number, loss: number, gradNorm: number): Promise<LorafuseError> {
    const what = Number.isFinite(loss) ? `gradients of norm ${gradNorm}` : `a loss of ${loss}`
    const last = step - 1
    const { path } = last > this.savedStep ? await this.checkpoint({ step: last }, last) : {}
    const kept = path === undefined ? '' : `; step ${last} is saved in ${path}`
    return new LorafuseError('NAN_LOSS', `Expected a finite loss at step ${step} but received ${what}${kept}. Lower the learning rate`)
  }

  /** Gradients that overflowed in fp16 are dropped; the scale has become smaller. */
  private dropGradients(): void {
    const { session, adapters } = this.options
    session.writeAdapters('gradients', new Float32Array(parameterCount(adapters)))
  }

  private async update(step: number): Promise<{ loss: number; gradNorm: number; learningRate: number }> {
    const { session, batches, facts, lossScale } = this.options
    const { weightDecay, maxGradNorm, gradientAccumulation } = facts.options
    const learningRate = learningRateAt(step, facts.steps, facts.options)
    // The bias correction counts the updates that were made.
    const update = { ...ADAM, learningRate, weightDecay, maxGradNorm, lossScale: lossScale.value, step: step - lossScale.state.skipped }
    const sizes = batches.of(step).map(({ length }) => length)
    for (const [i, size] of sizes.entries()) {
      // As accelerate: each batch's mean over the number of batches that an update takes, even where an epoch's last takes fewer.
      const weights = new Float32Array(size).fill(lossScale.value / (size * gradientAccumulation))
      await Promise.all([session.step(weights, i === sizes.length - 1 ? update : undefined), this.loadNext()])
    }
    const gradNorm = await session.norm()
    const losses = await session.losses()
    const loss = losses.reduce((sum, each) => sum + each, 0) / losses.length
    if (!Number.isFinite(loss)) throw await this.diverged(step, loss, gradNorm)
    if (Number.isFinite(gradNorm)) {
      lossScale.made()
    } else if (lossScale.canShrink) {
      lossScale.skipped()
      this.dropGradients()
    } else {
      throw await this.diverged(step, loss, gradNorm)
    }
    return { loss, gradNorm, learningRate }
  }

  /** Another program may have taken the GPU's memory: what is trained so far is saved. */
  private async outOfMemory(last: number, cause: LorafuseError): Promise<LorafuseError> {
    const { path } = last > this.savedStep ? await this.checkpoint({ step: last }, last) : {}
    const kept = path === undefined ? '' : `; step ${last} is saved in ${path}`
    return new LorafuseError('OUT_OF_MEMORY', `${cause.message}${kept}`, { cause })
  }

  private report(step: number, update: { loss: number; gradNorm: number; learningRate: number }): void {
    const { batches, facts, from } = this.options
    const { steps } = facts
    this.recent.push(update.loss)
    if (this.recent.length > batches.updatesPerEpoch) this.recent.shift()
    const averageLoss = this.recent.reduce((sum, loss) => sum + loss, 0) / this.recent.length
    const stepsPerSecond = ((step - from) * 1000) / (performance.now() - this.began)
    const etaSeconds = (steps - step) / stepsPerSecond
    const memoryBytes = process.memoryUsage.rss()
    const epoch = batches.epochOf(step)
    this.emit({ type: 'step', step, steps, epoch, ...update, averageLoss, stepsPerSecond, etaSeconds, memoryBytes })
  }

  /** Does what is left to do. Throws `NAN_LOSS`, `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, an `AbortError`. */
  async train(): Promise<Finished> {
    const { facts, adapters, from } = this.options
    const { steps, pictures, options } = facts
    const [modules, parameters] = [adapters.length, parameterCount(adapters)]
    const memory = this.plan()
    this.emit({ type: 'start', steps, images: pictures.length, modules, parameters, memory, resumedFrom: from, seed: options.seed })
    this.began = performance.now()
    let loss: number | undefined
    await this.loadNext()
    for (let step = from + 1; step <= steps; step++) {
      await this.stopIfAborted(step - 1)
      const update = await this.update(step).catch(async (error: LorafuseError) => {
        throw error.code === 'OUT_OF_MEMORY' ? await this.outOfMemory(step - 1, error) : error
      })
      loss = update.loss
      this.report(step, update)
      await this.saveWhereDue(step)
    }
    await this.stopIfAborted(steps)
    return { ...(await this.save('last', steps)), step: steps, loss }
  }
}
