/** Progress: one line that is redrawn on a terminal, a plain line now and then elsewhere. */
import { counted } from '../data/skipped.js'
import { bytesOf, listed } from '../errors.js'
import type { DownloadEvent, DownloadStartEvent, MemoryEvent, StartEvent, StepEvent } from '../events.js'

/** The part of a stream, such as `process.stderr`, that progress needs. */
export interface Terminal {
  write(text: string): unknown
  isTTY?: boolean | undefined
  columns?: number | undefined
}

const REDRAW_MS = 100
const PLAIN_MS = 10_000

export class Progress {
  private shown = ''
  private last = Number.NEGATIVE_INFINITY
  private readonly redraws: boolean

  constructor(
    private readonly terminal: Terminal,
    environment: NodeJS.ProcessEnv = process.env,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.redraws = terminal.isTTY === true && environment.TERM !== 'dumb'
  }

  /** Shows progress, unless the last update was only just now and `force` is off. */
  update(text: string, force = false): void {
    const now = this.now()
    if (!force && now - this.last < (this.redraws ? REDRAW_MS : PLAIN_MS)) return
    this.last = now
    if (!this.redraws) {
      this.terminal.write(`${text}\n`)
      return
    }
    this.shown = text.slice(0, Math.max(1, (this.terminal.columns || 80) - 1))
    this.terminal.write(`\r${this.shown}\x1b[K`)
  }

  /** Writes a line above the progress, where it stays. */
  line(text: string): void {
    const { shown } = this
    this.clear()
    this.terminal.write(`${text}\n`)
    if (shown === '') return
    this.shown = shown
    this.terminal.write(shown)
  }

  /** Erases the progress. */
  clear(): void {
    if (this.shown !== '') this.terminal.write('\r\x1b[K')
    this.shown = ''
  }

  /** Leaves the progress on the screen and goes to a new line. */
  end(): void {
    if (this.shown !== '') this.terminal.write('\n')
    this.shown = ''
  }
}

/** Writes seconds as `1:02:03` or `2:03`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  const two = (value: number) => String(value).padStart(2, '0')
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}

export function memory(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(2)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`
}

/** Writes in three lines what a training takes: in all, on the device by kind, and beside it in this machine's memory. */
export function memoryLines(event: MemoryEvent): string[] {
  const { device, precision, memory: planned, memoryOtherwise, gradientCheckpointing, recomputed } = event
  const otherwise =
    recomputed === undefined
      ? `${memory(memoryOtherwise)} with${gradientCheckpointing ? 'out' : ''} --gradient-checkpointing`
      : `${memory(memoryOtherwise)} if all were kept; ${counted(recomputed, 'part')} computed again`
  const mapped = planned.mapped > 0 ? ` (${memory(planned.mapped)} mapped from the file)` : ''
  return [
    `memory: ${memory(planned.total)} planned on the ${device === 'cpu' ? 'CPU' : 'GPU'} in ${precision} (${otherwise})`,
    `  weights ${memory(planned.weights)}${mapped}, LoRA, gradients and optimizer ${memory(planned.adapters)}, activations ${memory(planned.activations)}, workspace ${memory(planned.workspace)}`,
    `  caches, programs and saving ${memory(planned.host)}${device === 'cpu' ? '' : " of this machine's memory"}`,
  ]
}

/** How many buckets the start of a training lists. */
const MOST_BUCKETS = 6

/** Writes how many images train at which size: `512×512: 20, 448×576: 4`. */
export function bucketList(buckets: StartEvent['buckets']): string {
  const written = buckets.map(({ width, height, images }) => `${width}×${height}: ${images}`)
  return listed(written, ', ', MOST_BUCKETS)
}

/** Writes a step in one line: count, loss, speed, time left, memory. */
export function stepLine(event: StepEvent): string {
  const { step, steps, loss, averageLoss, stepsPerSecond, etaSeconds, memoryBytes } = event
  const rate =
    stepsPerSecond >= 1 || stepsPerSecond === 0 ? `${stepsPerSecond.toFixed(2)} steps/s` : `${(1 / stepsPerSecond).toFixed(2)} s/step`
  const count = `${String(step).padStart(String(steps).length)}/${steps}`
  return `step ${count}  loss ${loss.toFixed(4)} (average ${averageLoss.toFixed(4)})  ${rate}  ETA ${duration(etaSeconds)}  ${memory(memoryBytes)}`
}

/** Writes in one line what is going to be fetched. */
export function downloadStartLine({ repository, commit, files, bytes, resumedBytes, folder }: DownloadStartEvent): string {
  const here = resumedBytes > 0 ? `, ${bytesOf(resumedBytes)} of them here already` : ''
  return `fetching ${repository} at ${commit.slice(0, 7)} from the Hugging Face Hub: ${counted(files, 'file')}, ${bytesOf(bytes)}${here}, to ${folder}`
}

/** Writes in one line how far a download is. */
export function downloadLine({ file, done, total, bytesPerSecond, etaSeconds }: DownloadEvent): string {
  const percent = `${Math.floor((100 * done) / total)}%`.padStart(4)
  return `download ${percent}  ${bytesOf(done)} of ${bytesOf(total)}  ${bytesOf(bytesPerSecond)}/s  ETA ${duration(etaSeconds)}  ${file}`
}
