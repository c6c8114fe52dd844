import type { StepEvent } from '../events.js'

/** Makes the `step` events of a training. */
export class StepReport {
  private readonly began = performance.now()
  /** Losses of the last epoch's worth of updates. */
  private readonly recent: number[] = []

  /** `from`: the last update before this call of `train`. */
  constructor(private readonly options: { from: number; steps: number; updatesPerEpoch: number }) {}

  event(step: number, update: Pick<StepEvent, 'loss' | 'gradNorm' | 'learningRate'>): StepEvent {
    const { from, steps, updatesPerEpoch } = this.options
    this.recent.push(update.loss)
    if (this.recent.length > updatesPerEpoch) this.recent.shift()
    const averageLoss = this.recent.reduce((sum, loss) => sum + loss, 0) / this.recent.length
    const stepsPerSecond = ((step - from) * 1000) / (performance.now() - this.began)
    const etaSeconds = (steps - step) / stepsPerSecond
    const epoch = Math.ceil(step / updatesPerEpoch)
    return { type: 'step', step, steps, epoch, ...update, averageLoss, stepsPerSecond, etaSeconds, memoryBytes: process.memoryUsage.rss() }
  }
}
