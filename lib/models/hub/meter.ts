/** Tells how far a download is. */
import type { ModelEvent } from '../../events.js'

const EVENT_MS = 200
/** The rate is that of these last seconds. */
const RATE_MS = 10_000

/** Counts bytes and tells of them, not too often. */
export class Meter {
  private readonly began = performance.now()
  private readonly marks: { time: number; done: number }[]
  file = ''

  constructor(
    private done: number,
    private readonly total: number,
    private readonly onEvent: ((event: ModelEvent) => void) | undefined,
  ) {
    this.marks = [{ time: this.began, done }]
  }

  add(count: number): void {
    this.done += count
    const time = performance.now()
    if (time - this.marks.at(-1)!.time < EVENT_MS && this.done < this.total) return
    this.marks.push({ time, done: this.done })
    while (this.marks.length > 2 && time - this.marks[1]!.time >= RATE_MS) this.marks.shift()
    const [first] = this.marks as [{ time: number; done: number }]
    const bytesPerSecond = Math.max(0, (1000 * (this.done - first.done)) / Math.max(1, time - first.time))
    const { file, done, total } = this
    this.onEvent?.({ type: 'download', file, done, total, bytesPerSecond, etaSeconds: (total - done) / Math.max(1, bytesPerSecond) })
  }
}
