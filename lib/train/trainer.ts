/** The training loop: batches, optimizer updates, and early ends that save what is done. */
import type { Batches } from '../data/batches.js'
import { LorafuseError, memoryError, throwIfAborted } from '../errors.js'
import type { StepEvent, TrainEvent } from '../events.js'
import { writeError } from '../files/atomic.js'
import type { Inputs, Session, StepProfile, UpdateInput } from '../native.js'
import { learningRateAt } from '../options/lr-schedulers.js'
import { Checkpoints, type CheckpointsOptions } from './checkpoints.js'
import type { StepInputs } from './inputs.js'
import type { Saved } from './output.js'
import type { TrainedPart } from './parts.js'
import { profiledStep, writeProfile } from './profile.js'

export interface TrainContext {
  /** Stops the training after the current step and saves its state; `train` then rejects with an error named `AbortError`. */
  signal?: AbortSignal | undefined
  /** Its errors, thrown or of a promise it returns, end the training and come back; `train` waits for its promises before it resolves, unless stopped. */
  onEvent?: ((event: TrainEvent) => void) | undefined
}

export interface TrainerOptions extends CheckpointsOptions {
  /** Its adapters are attached and as they were after update `from`. */
  session: Session
  batches: Batches
  inputs: StepInputs
  parts: TrainedPart[]
  /** The last update that trains text encoders; 0 where none does. */
  lastTextStep: number
}

export interface Finished extends Saved {
  /** Updates done, including those before the run was resumed. */
  step: number
  /** The loss of the last update; undefined if none was left to do. */
  loss: number | undefined
}

type Update = Pick<StepEvent, 'loss' | 'gradNorm' | 'learningRate'>

export class Trainer {
  private readonly checkpoints: Checkpoints
  /** Inputs of the batches that are not loaded yet. */
  private readonly upcoming: AsyncIterator<Inputs>
  /** Why the next batch is not loaded. */
  private unloaded: { reason: unknown } | undefined
  private readonly began = performance.now()
  /** Of the batches of the step that is profiled. */
  private readonly profiles: StepProfile[] = []
  /** Losses of the last epoch's worth of updates. */
  private readonly recent: number[] = []

  constructor(
    private readonly options: TrainerOptions,
    private readonly context: TrainContext,
  ) {
    const { inputs, from, info } = options
    this.checkpoints = new Checkpoints(options, (event) => context.onEvent?.(event))
    this.upcoming = inputs.range(from + 1, info.steps)
  }

  /** Loads the next batch, while a step runs. Should it fail, that step is done all the same, so the one that needs the batch throws it. */
  private async loadNext(): Promise<void> {
    try {
      const { done, value } = await this.upcoming.next()
      if (!done) await this.options.session.load(value)
    } catch (reason) {
      this.unloaded = { reason }
    }
  }

  /** `step`: the last one that is done. */
  private async stopIfAborted(step: number): Promise<void> {
    const { signal } = this.context
    if (signal?.aborted) await this.checkpoints.saveUnsaved(step)
    throwIfAborted(signal, 'The training')
  }

  /** Saves what is done and returns the end of an error's sentence that says so. */
  private async keep(step: number): Promise<string> {
    const saved = await this.checkpoints.saveUnsaved(step)
    return saved === undefined ? '' : `; step ${step} is saved in ${saved.path}`
  }

  /** Makes the error of update `step`, whose loss or gradients are not finite and which therefore changed nothing. */
  private async diverged(step: number, loss: number, gradNorm: number): Promise<LorafuseError> {
    const what = Number.isFinite(loss) ? `gradients of norm ${gradNorm}` : `a loss of ${loss}`
    const kept = await this.keep(step - 1)
    return new LorafuseError('NAN_LOSS', `Expected a finite loss at step ${step} but received ${what}${kept}. Lower the learning rate`)
  }

  /** Runs one batch of an update, op by op where that is profiled. */
  private async step(step: number, weights: Float32Array, update: UpdateInput | undefined): Promise<void> {
    const { session, info, from } = this.options
    if (info.options.profile === undefined || step !== profiledStep(from, info.steps)) return session.step(weights, update)
    this.profiles.push(await session.profileStep(weights, update))
  }

  /** Tells of the profile. What fails is a warning, as it is no part of the training. */
  private async tellProfile(step: number): Promise<void> {
    const { session, info } = this.options
    const path = info.options.profile
    const profiles = this.profiles.splice(0)
    if (path === undefined || profiles.length === 0) return
    const event = await writeProfile(path, { step, profiles, speeds: await session.speeds() }).catch((cause: unknown) => {
      const { message } = writeError(path, cause) as Error
      return { type: 'warning', code: 'NO_PROFILE', message: `The profile is not written: ${message}`, path } as const
    })
    this.context.onEvent?.(event)
  }

  private async update(step: number): Promise<Update> {
    const { session, batches, info, lossScale, parts, lastTextStep } = this.options
    const { weightDecay, maxGradNorm, gradientAccumulation } = info.options
    // As in accelerate, the schedule waits for skipped updates, and so does the bias correction.
    const made = step - lossScale.state.skipped
    const rateOf = (learningRate: number) => learningRateAt(made, info.steps, { ...info.options, learningRate })
    const groups = Array.from({ length: 1 + Math.max(...parts.map(({ group }) => group)) }, () => ({ learningRate: 0, weightDecay }))
    for (const { group, isText, learningRate } of parts)
      if (!isText || step <= lastTextStep) groups[group]!.learningRate = rateOf(learningRate)
    const learningRate = rateOf(parts[0]!.learningRate)
    const update = {
      groups,
      maxGradNorm,
      lossScale: lossScale.state.value,
      step: made,
    }
    const sizes = (await batches.of(step)).map(({ length }) => length)
    for (const [i, size] of sizes.entries()) {
      // As accelerate: divides by the full number of accumulated batches, even if an epoch's last update takes fewer.
      const weights = new Float32Array(size).fill(lossScale.state.value / (size * gradientAccumulation))
      if (this.unloaded) throw this.unloaded.reason
      const stepping = this.step(step, weights, i === sizes.length - 1 ? update : undefined)
      const loading = this.loadNext()
      // A session that still runs a call cannot be read and saved.
      await stepping.finally(() => loading)
    }
    const gradNorm = await session.norm()
    const losses = await session.losses()
    const loss = losses.reduce((sum, each) => sum + each, 0) / losses.length
    const overflowed = !Number.isFinite(gradNorm)
    if (!Number.isFinite(loss) || (overflowed && !lossScale.canShrink)) throw await this.diverged(step, loss, gradNorm)
    if (overflowed) {
      lossScale.skipped()
      session.clear('gradients')
    } else {
      lossScale.made()
    }
    return { loss, gradNorm, learningRate }
  }

  private event(step: number, update: Update): StepEvent {
    const { from, info } = this.options
    const { steps, batches } = info
    this.recent.push(update.loss)
    if (this.recent.length > batches.updatesPerEpoch) this.recent.shift()
    const averageLoss = this.recent.reduce((sum, loss) => sum + loss, 0) / this.recent.length
    const stepsPerSecond = ((step - from) * 1000) / (performance.now() - this.began)
    const etaSeconds = (steps - step) / stepsPerSecond
    const epoch = Math.ceil(step / batches.updatesPerEpoch)
    return { type: 'step', step, steps, epoch, ...update, averageLoss, stepsPerSecond, etaSeconds, memoryBytes: process.memoryUsage.rss() }
  }

  /** Trains the updates that are left. Throws `NAN_LOSS`, `OUT_OF_MEMORY`, `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, an `AbortError`. */
  async train(): Promise<Finished> {
    const { info, from } = this.options
    const { steps } = info
    let loss: number | undefined
    await this.loadNext()
    for (let step = from + 1; step <= steps; step++) {
      await this.stopIfAborted(step - 1)
      const update = await this.update(step).catch(async (reason: unknown) => {
        const error = memoryError(reason) as LorafuseError
        if (error.code !== 'OUT_OF_MEMORY') throw error
        // E.g. another program took the GPU's memory.
        throw new LorafuseError('OUT_OF_MEMORY', `${error.message}${await this.keep(step - 1)}`, { cause: error })
      })
      loss = update.loss
      this.context.onEvent?.(this.event(step, update))
      await this.tellProfile(step)
      await this.checkpoints.saveWhereDue(step)
    }
    await this.stopIfAborted(steps)
    return { ...(await this.checkpoints.write('last', steps)), step: steps, loss }
  }
}
