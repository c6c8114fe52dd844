/**
 * The dynamic loss scale of fp16 training: the loss is multiplied by `value` before it is differentiated, so small gradients do not vanish.
 * Rules and numbers as torch:amp/grad_scaler.py, GradScaler.
 */

export interface LossScaleState {
  value: number
  /** Updates since the value last changed. */
  growing: number
  /** Updates skipped because gradients overflowed. */
  skipped: number
}

const FIRST = 2 ** 16
const GROWTH = 2
const BACKOFF = 0.5
const INTERVAL = 2000

export class LossScale {
  private constructor(
    private readonly dynamic: boolean,
    private current: LossScaleState,
  ) {}

  /** Makes the loss scale of a training, continued from `state` if given. Only fp16 on a GPU is scaled. */
  static of({ device, precision }: { device: string; precision: string }, state?: LossScaleState): LossScale {
    const dynamic = device === 'cuda' && precision === 'fp16'
    return new LossScale(dynamic, dynamic && state ? state : { value: dynamic ? FIRST : 1, growing: 0, skipped: 0 })
  }

  get value(): number {
    return this.current.value
  }
  get state(): LossScaleState {
    return this.current
  }

  /** Whether an overflow may be due to the scale, so the update can be retried with a smaller one. */
  get canShrink(): boolean {
    return this.dynamic && this.current.value > 1
  }

  /** To be called after an update. */
  made(): void {
    if (!this.dynamic) return
    const { value, growing, skipped } = this.current
    const grows = growing + 1 === INTERVAL
    this.current = { value: grows ? value * GROWTH : value, growing: grows ? 0 : growing + 1, skipped }
  }

  /** To be called after an update that was skipped. */
  skipped(): void {
    const { value, skipped } = this.current
    this.current = { value: value * BACKOFF, growing: 0, skipped: skipped + 1 }
  }
}
