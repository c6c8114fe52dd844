/** Rows of a bench as text and as CSV. */
import { type BenchRow, type BenchSetting, memoryOf } from '../bench/rows.js'
import { columns } from './columns.js'
import { percent } from './profile.js'
import { duration, memory } from './progress.js'

const HEAD = ['rank', 'targets', 'px', 'batch', 'checkpointing', 'planned', 'peak', 's/step', 'images/s', 'of peak', 'LoRA']

const settingCells = ({ rank, targets, resolution, batchSize, gradientCheckpointing }: BenchSetting) =>
  [rank, targets, resolution, batchSize, gradientCheckpointing ? 'on' : 'off'].map(String)

function cells(row: BenchRow): string[] {
  const setting = settingCells(row)
  if (row.outcome === 'failed') return [...setting, 'failed', '', '', '', '', '']
  const lora = `${(row.loraBytes / 2 ** 20).toFixed(1)} MiB`
  if (row.outcome === 'too large') return [...setting, memory(row.plannedBytes), 'too large', '', '', '', lora]
  const speed = [row.secondsPerStep.toPrecision(3), row.imagesPerSecond.toPrecision(3), percent(row.ofPeak)]
  return [...setting, memory(row.plannedBytes), memory(memoryOf(row)), ...speed, lora]
}

/** Writes rows as a table; what failed says why below it. */
export function describeBench(rows: BenchRow[]): string {
  const failures = rows.flatMap((row) =>
    row.outcome === 'failed' ? [`rank ${row.rank}, ${row.resolution} px, batch ${row.batchSize} failed: ${row.message}`] : [],
  )
  return [columns([HEAD, ...rows.map(cells)]), ...failures].join('\n')
}

/** Writes in one line what is being measured. */
export function benchLine(setting: BenchSetting, done: number, total: number, etaSeconds: number | undefined): string {
  const [rank, targets, px, batch, checkpointing] = settingCells(setting)
  const eta = etaSeconds === undefined ? '' : `  ETA ${duration(etaSeconds)}`
  return `row ${done + 1}/${total}${eta}  rank ${rank}, ${targets}, ${px} px, batch ${batch}, checkpointing ${checkpointing}`
}

/** The columns of the CSV file, in bytes and seconds. */
const KEYS = [
  ...['rank', 'targets', 'resolution', 'batchSize', 'gradientCheckpointing', 'outcome'],
  ...['plannedBytes', 'plannedProcessBytes', 'processBytes', 'deviceBytes'],
  ...['secondsPerStep', 'imagesPerSecond', 'flops', 'ofPeak', 'loraBytes', 'message'],
]

/** Writes rows as CSV (RFC 4180). */
export function benchCsv(rows: BenchRow[]): string {
  const quoted = (value: unknown) => {
    const text = String(value ?? '')
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
  }
  const lines = rows.map((row) => KEYS.map((key) => quoted((row as unknown as Record<string, unknown>)[key])).join(','))
  return `${[KEYS.join(','), ...lines].join('\r\n')}\r\n`
}
