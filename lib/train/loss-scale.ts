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
  /** Only fp16 on a GPU is scaled. */
  private readonly dynamic: boolean
  state: LossScaleState

  /** Continues from `saved` if given. */
  constructor({ device, precision }: { device: string; precision: string }, saved?: LossScaleState) {
    this.dynamic = device === 'cuda' && precision === 'fp16'
    this.state = this.dynamic && saved ? saved : { value: this.dynamic ? FIRST : 1, growing: 0, skipped: 0 }
  }

  /** Whether an overflow may be due to the scale, so the update can be retried with a smaller one. */
  get canShrink(): boolean {
    return this.dynamic && this.state.value > 1
  }

  /** To be called after an update. */
  made(): void {
    if (!this.dynamic) return
    const { value, growing, skipped } = this.state
    const grows = growing + 1 === INTERVAL
    this.state = { value: grows ? value * GROWTH : value, growing: grows ? 0 : growing + 1, skipped }
  }

  /** To be called after an update that was skipped. */
  skipped(): void {
    const { value, skipped } = this.state
    this.state = { value: value * BACKOFF, growing: 0, skipped: skipped + 1 }
  }
}
