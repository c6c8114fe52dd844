/** The rows of a bench: what is measured, what came of it, and which of them no other beats. */
import type { ResolvedBenchOptions } from '../options/resolve.js'

/** One training that is measured. */
export interface BenchSetting {
  rank: number
  targets: 'default' | 'attention'
  /** Of square images, in pixels. */
  resolution: number
  batchSize: number
  gradientCheckpointing: boolean
}

/** Bytes, seconds. */
export interface BenchMeasurement {
  /** What the plan says that the device holds, and the process with what it needs besides. */
  plannedBytes: number
  plannedProcessBytes: number
  /** The most memory that was resident. */
  processBytes: number
  /** What is allocated on the GPU; undefined on the CPU. */
  deviceBytes: number | undefined
  secondsPerStep: number
  imagesPerSecond: number
  /** Floating-point operations of a step, and their share of the speed of matrix products that has been measured. */
  flops: number
  ofPeak: number
  /** Of the LoRA's file in fp16, metadata left out. */
  loraBytes: number
}

export type BenchRow = BenchSetting &
  (
    | ({ outcome: 'measured' } & BenchMeasurement)
    /** The machine has less memory. */
    | ({ outcome: 'too large' } & Pick<BenchMeasurement, 'plannedBytes' | 'plannedProcessBytes' | 'loraBytes'>)
    | { outcome: 'failed'; message: string }
  )

export type MeasuredRow = Extract<BenchRow, { outcome: 'measured' }>

/** Lists all combinations, the smallest first. */
export function settingsOf(options: ResolvedBenchOptions): BenchSetting[] {
  const values = <Value>(list: Value[]) => [...new Set(list)]
  return values(options.resolution).flatMap((resolution) =>
    values(options.batchSize).flatMap((batchSize) =>
      values(options.targets).flatMap((targets) =>
        values(options.gradientCheckpointing).flatMap((checkpointing) =>
          values(options.rank).map((rank) => ({ rank, targets, resolution, batchSize, gradientCheckpointing: checkpointing === 'on' })),
        ),
      ),
    ),
  )
}

export const isMeasured = (row: BenchRow): row is MeasuredRow => row.outcome === 'measured'

/** The memory that a row needs of its device. */
export const memoryOf = ({ deviceBytes, processBytes }: MeasuredRow) => deviceBytes ?? processBytes
export const secondsPerImage = ({ imagesPerSecond }: MeasuredRow) => 1 / imagesPerSecond

/** Leaves the rows of which no other takes both less memory and less time, the smallest first. */
export function pareto(rows: MeasuredRow[]): MeasuredRow[] {
  const kept: MeasuredRow[] = []
  for (const row of [...rows].sort((a, b) => memoryOf(a) - memoryOf(b) || secondsPerImage(a) - secondsPerImage(b))) {
    if (kept.every((other) => secondsPerImage(row) < secondsPerImage(other))) kept.push(row)
  }
  return kept
}
