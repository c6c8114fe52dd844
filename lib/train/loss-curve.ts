/** Draws the loss curve of a training. */
import { axis, chart, colours, png } from '../pictures/chart.js'

export interface CurvePoint {
  step: number
  loss: number
}

/** Averages a window around each value; the windows are shorter at both ends. */
function smooth(values: number[], window: number): number[] {
  const sums = [0]
  for (const value of values) sums.push((sums.at(-1) as number) + value)
  const half = Math.floor(window / 2)
  return values.map((_, i) => {
    const from = Math.max(0, i - half)
    const to = Math.min(values.length, i + half + 1)
    return ((sums[to] as number) - (sums[from] as number)) / (to - from)
  })
}

/** Averages neighbours so that at most `most` points are left. */
function thin(points: CurvePoint[], most: number): CurvePoint[] {
  const size = Math.ceil(points.length / most)
  if (size <= 1) return points
  return Array.from({ length: Math.ceil(points.length / size) }, (_, i) => {
    const group = points.slice(i * size, (i + 1) * size)
    const mean = (key: keyof CurvePoint) => group.reduce((sum, point) => sum + point[key], 0) / group.length
    return { step: mean('step'), loss: mean('loss') }
  })
}

/** Losses vary with their timesteps, so the highest 5 % may lie outside the plot. */
function highest(losses: number[], mean: number[]): number {
  const sorted = [...losses].sort((a, b) => a - b)
  return Math.max(sorted[Math.floor(sorted.length * 0.95)] ?? 0, Math.max(0, ...mean) * 1.2) || 1
}

/** Draws the curve as SVG: every loss in a light colour, the running mean in a dark one. */
export async function lossCurveSvg(points: CurvePoint[], { width = 960, height = 480 } = {}): Promise<string> {
  const finite = points.filter(({ step, loss }) => Number.isFinite(step) && Number.isFinite(loss))
  const raw = thin(finite, width)
  const losses = raw.map(({ loss }) => loss)
  const mean = smooth(losses, losses.length / 20)
  const line = (values: number[], color: string, width: number) => ({
    type: 'line' as const,
    ...{ data: raw.map(({ step }, i) => [step, values[i]!]), color, lineStyle: { width }, clip: true },
    // A line of one point is none.
    ...{ showSymbol: raw.length === 1, symbol: 'circle' },
  })
  const option = {
    grid: { left: 100, right: 32, top: 24, bottom: 72 },
    xAxis: axis('step', 40, { min: finite[0]?.step ?? 0, max: finite.at(-1)?.step ?? 1, minInterval: 1, splitLine: { show: false } }),
    yAxis: axis('loss', 70, { min: 0, max: highest(losses, mean), showMaxLabel: false }),
    series: [line(losses, colours.light, 1), line(mean, colours.strong, 2.5)],
  }
  return chart(option, { width, height })
}

/** Draws the curve as PNG; sizes are in pixels. */
export async function lossCurvePng(points: CurvePoint[], size: { width?: number; height?: number } = {}): Promise<Uint8Array> {
  return png(await lossCurveSvg(points, size))
}
