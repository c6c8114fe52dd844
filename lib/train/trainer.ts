/** The training loop: batches, optimizer updates, and early ends that save what is done. */
import { parameterCount } from '../adapters/adapter.js'
import type { Batches } from '../data/batches.js'
import { LorafuseError, throwIfAborted } from '../errors.js'
import type { StepEvent, TrainEvent } from '../events.js'
import type { Inputs, Parameter, Session } from '../native.js'
import { learningRateAt } from '../options/lr-schedulers.js'
import type { Checkpoints } from './checkpoints.js'
import type { StepInputs } from './inputs.js'
import type { LossScale } from './loss-scale.js'
import type { TrainingInfo } from './metadata.js'
import type { Saved } from './output.js'
import { StepReport } from './report.js'

export interface TrainContext {
  /** Stops the training after the current step and saves its state; `train` then rejects with an error named `AbortError`. */
  signal?: AbortSignal | undefined
  onEvent?: ((event: TrainEvent) => void) | undefined
}

export interface TrainerOptions {
  /** Its adapters are attached and as they were after update `from`. */
  session: Session
  parameters: Parameter[]
  batches: Batches
  inputs: StepInputs
  checkpoints: Checkpoints
  info: TrainingInfo
  lossScale: LossScale
  /** The last update that is done; 0 for a new run. */
  from: number
}

export interface Finished extends Saved {
  /** Updates done, including those before the run was resumed. */
  step: number
  /** The loss of the last update; undefined if none was left to do. */
  loss: number | undefined
}

export class Trainer {
  /** Inputs of the batches that are not loaded yet. */
  private readonly upcoming: Iterator<Inputs>

  constructor(
    private readonly options: TrainerOptions,
    private readonly context: TrainContext,
  ) {
    const { inputs, from, info } = options
    this.upcoming = inputs.range(from + 1, info.steps)
  }

  private async loadNext(): Promise<void> {
    const { done, value } = this.upcoming.next()
    if (!done) await this.options.session.load(value)
  }

  /** `step`: the last one that is done. */
  private async stopIfAborted(step: number): Promise<void> {
    const { signal } = this.context
    if (signal?.aborted) await this.options.checkpoints.saveUnsaved(step)
    throwIfAborted(signal, 'The training')
  }

  /** Saves what is done and returns the end of an error's sentence that says so. */
  private async keep(step: number): Promise<string> {
    const saved = await this.options.checkpoints.saveUnsaved(step)
    return saved === undefined ? '' : `; step ${step} is saved in ${saved.path}`
  }

  /** Makes the error of update `step`, whose loss or gradients are not finite and which therefore changed nothing. */
  private async diverged(step: number, loss: number, gradNorm: number): Promise<LorafuseError> {
    const what = Number.isFinite(loss) ? `gradients of norm ${gradNorm}` : `a loss of ${loss}`
    const kept = await this.keep(step - 1)
    return new LorafuseError('NAN_LOSS', `Expected a finite loss at step ${step} but received ${what}${kept}. Lower the learning rate`)
  }

  /** Zeroes gradients that overflowed in fp16. */
  private dropGradients(): void {
    const { session, parameters } = this.options
    session.write('gradients', new Float32Array(parameterCount(parameters)))
  }

  private async update(step: number): Promise<Pick<StepEvent, 'loss' | 'gradNorm' | 'learningRate'>> {
    const { session, batches, info, lossScale } = this.options
    const { weightDecay, maxGradNorm, gradientAccumulation } = info.options
    const learningRate = learningRateAt(step, info.steps, info.options)
    const update = {
      groups: [{ learningRate, weightDecay }],
      maxGradNorm,
      lossScale: lossScale.value,
      // The bias correction does not count skipped updates.
      step: step - lossScale.state.skipped,
    }
    const sizes = batches.of(step).map(({ length }) => length)
    for (const [i, size] of sizes.entries()) {
      // As accelerate: divides by the full number of accumulated batches, even if an epoch's last update takes fewer.
      const weights = new Float32Array(size).fill(lossScale.value / (size * gradientAccumulation))
      const calls = [session.step(weights, i === sizes.length - 1 ? update : undefined), this.loadNext()]
      // Waits for both even if one fails, as a session that still runs a call cannot be read and saved.
      for (const ended of await Promise.allSettled(calls)) if (ended.status === 'rejected') throw ended.reason
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

  /** Makes the error of a training that runs out of memory, e.g. because another program took the GPU's; saves what is done. */
  private async outOfMemory(last: number, cause: LorafuseError): Promise<LorafuseError> {
    return new LorafuseError('OUT_OF_MEMORY', `${cause.message}${await this.keep(last)}`, { cause })
  }

  /** Trains the updates that are left. Throws `NAN_LOSS`, `OUT_OF_MEMORY`, `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, an `AbortError`. */
  async train(): Promise<Finished> {
    const { checkpoints, info, from } = this.options
    const { steps } = info
    const report = new StepReport({ from, ...info })
    let loss: number | undefined
    await this.loadNext()
    for (let step = from + 1; step <= steps; step++) {
      await this.stopIfAborted(step - 1)
      const update = await this.update(step).catch(async (error: LorafuseError) => {
        throw error.code === 'OUT_OF_MEMORY' ? await this.outOfMemory(step - 1, error) : error
      })
      loss = update.loss
      this.context.onEvent?.(report.event(step, update))
      await checkpoints.saveWhereDue(step)
    }
    await this.stopIfAborted(steps)
    return { ...(await checkpoints.write('last', steps)), step: steps, loss }
  }
}
