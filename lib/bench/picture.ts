/** Draws a bench: the memory and the time of each row, its ranks in colours, and the line of those that no other beats. */
import { axis, chart, colours, heading, legend } from '../pictures/chart.js'
import { type BenchRow, isMeasured, type MeasuredRow, memoryOf, pareto, secondsPerImage } from './rows.js'

/** A row in words, but for its rank; what all rows have in common is left out. */
function nameOf(row: MeasuredRow, rows: MeasuredRow[]): string {
  const differs = (key: 'targets' | 'resolution' | 'batchSize' | 'gradientCheckpointing') => rows.some((other) => other[key] !== row[key])
  const words = [
    ...(differs('resolution') ? [`${row.resolution} px`] : []),
    ...(differs('batchSize') ? [`batch ${row.batchSize}`] : []),
    ...(differs('targets') ? [row.targets] : []),
    ...(differs('gradientCheckpointing') ? [row.gradientCheckpointing ? 'checkpointing' : 'all kept'] : []),
  ]
  return words.join(', ')
}

/** Draws a bench as SVG. Rows that were not measured are left out. */
export async function benchSvg(rows: BenchRow[]): Promise<string> {
  const measured = rows.filter(isMeasured)
  const at = (row: MeasuredRow) => [memoryOf(row) / 2 ** 20, secondsPerImage(row)]
  const ranks = [...new Set(measured.map(({ rank }) => rank))].sort((a, b) => a - b)
  const dots = ranks.map((rank, i) => ({
    type: 'scatter' as const,
    ...{ name: `rank ${rank}`, symbolSize: 14, color: colours.series[i % colours.series.length]! },
    data: measured
      .filter((row) => row.rank === rank)
      .map((row) => ({
        value: at(row),
        label: { show: true, position: 'right' as const, formatter: nameOf(row, measured), color: colours.text, fontSize: 14 },
      })),
    labelLayout: { hideOverlap: true },
  }))
  // Images of different sizes are different work.
  const resolutions = [...new Set(measured.map(({ resolution }) => resolution))]
  const lines = resolutions.map((resolution) => ({
    type: 'line' as const,
    ...{ name: 'no other takes less of both', symbol: 'none', color: colours.axis },
    data: pareto(measured.filter((row) => row.resolution === resolution)).map(at),
    lineStyle: { type: 'dashed' as const, width: 2 },
  }))
  const series = [...dots, ...lines]
  const left = rows.length - measured.length
  const subtext = `${measured.length} trainings${left > 0 ? `; ${left} more do not fit or failed` : ''}`
  return chart({
    title: heading('Memory and time by rank', subtext),
    legend: legend([...new Set(series.map(({ name }) => name))]),
    grid: { left: 100, right: 180, top: 90, bottom: 110 },
    xAxis: axis('most memory (MiB)', 34, { scale: true }),
    yAxis: axis('time for an image of a step (s)', 70, { min: 0 }),
    series,
  })
}
