/**
 * The dynamic loss scale of training in fp16: gradients are computed of the loss times `value`, so that small ones do not vanish.
 * Rules and numbers as torch:amp/grad_scaler.py, GradScaler.
 */

export interface LossScaleState {
  value: number
  /** Updates made since the value changed. */
  growing: number
  /** Updates that were left out as gradients had overflowed. */
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

  /** For a training in `precision` on `device`, as it was when `state` was saved. Only what is computed in fp16 is scaled. */
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

  /** Whether gradients that overflowed are a matter of the scale: another try with a smaller one is left. */
  get canShrink(): boolean {
    return this.dynamic && this.current.value > 1
  }

  /** After an update that was made. */
  made(): void {
    if (!this.dynamic) return
    const { value, growing, skipped } = this.current
    const grows = growing + 1 === INTERVAL
    this.current = { value: grows ? value * GROWTH : value, growing: grows ? 0 : growing + 1, skipped }
  }

  /** After one that was left out. */
  skipped(): void {
    const { value, skipped } = this.current
    this.current = { value: value * BACKOFF, growing: 0, skipped: skipped + 1 }
  }
}
