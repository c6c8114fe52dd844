/** Draws the loss curve of a training. Labels are strokes, so a machine without fonts shows them too. */
import sharp from 'sharp'

export interface CurvePoint {
  step: number
  loss: number
}

/** Each character as strokes on a grid of 4 × 6; the baseline is at 6. */
const GLYPHS: Record<string, string> = {
  0: 'M1 0H3L4 1V5L3 6H1L0 5V1Z',
  1: 'M1 1L2 0V6',
  2: 'M0 1L1 0H3L4 1V2L0 6H4',
  3: 'M0 1L1 0H3L4 1V2L3 3H1.5M3 3L4 4V5L3 6H1L0 5',
  4: 'M3 6V0L0 4H4',
  5: 'M4 0H0V2.5H3L4 3.5V5L3 6H1L0 5',
  6: 'M4 1L3 0H1L0 1V5L1 6H3L4 5V3.5L3 2.5H0',
  7: 'M0 0H4L1.5 6',
  8: 'M1 3L0 2V1L1 0H3L4 1V2L3 3H1L0 4V5L1 6H3L4 5V4L3 3',
  9: 'M0 5L1 6H3L4 5V1L3 0H1L0 1V2.5L1 3.5H4',
  '.': 'M1 6V5.9',
  '-': 'M.5 3H3.5',
  e: 'M0 4H4V3L3 2H1L0 3V5L1 6H3.5',
  l: 'M1.5 0V5L2.5 6',
  o: 'M1 2H3L4 3V5L3 6H1L0 5V3Z',
  p: 'M0 2V8M0 3L1 2H3L4 3V5L3 6H1L0 5',
  s: 'M4 2.5L3 2H1L0 3L1 4H3L4 5L3 6H1L0 5.5',
  t: 'M1.5 .5V5L2.5 6H3.5M.5 2H3',
}
const ADVANCE = 6
const SCALE = 2
const MARGIN = { left: 76, right: 20, top: 20, bottom: 48 }

const round = (value: number) => Math.round(value * 100) / 100

/** Draws a word on the baseline y: it begins at x if `anchor` is 0, is centred there at 0.5, ends there at 1. */
function word(text: string, x: number, y: number, anchor: number): string {
  const left = x - anchor * (text.length * ADVANCE - 2) * SCALE
  const glyphs = [...text].map((character, i) => `<path transform="translate(${i * ADVANCE})" d="${GLYPHS[character] ?? ''}"/>`)
  return `<g transform="translate(${round(left)} ${round(y - 6 * SCALE)}) scale(${SCALE})">${glyphs.join('')}</g>`
}

/** Chooses a tick size, 1, 2 or 5 times a power of ten, so that about `count` ticks fit into `range`. */
function tickSize(range: number, count: number): number {
  const power = 10 ** Math.floor(Math.log10(range / count))
  return power * ([1, 2, 5].find((factor) => factor * power * count >= range) ?? 10)
}

function tickText(value: number): string {
  const short = Number(value.toPrecision(6))
  return short !== 0 && Math.abs(short) < 1e-3 ? short.toExponential() : String(short)
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

/** Draws the curve as SVG: every loss in a light colour, the running mean in a dark one. */
export function lossCurveSvg(points: CurvePoint[], { width = 960, height = 480 } = {}): string {
  const finite = points.filter(({ step, loss }) => Number.isFinite(step) && Number.isFinite(loss))
  const plot = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom }
  const raw = thin(finite, plot.width)
  const losses = raw.map(({ loss }) => loss)
  const mean = smooth(losses, losses.length / 20)
  // Losses vary with their timesteps, so the highest 5 % may lie outside the plot.
  const sorted = [...losses].sort((a, b) => a - b)
  const top = Math.max(sorted[Math.floor(sorted.length * 0.95)] ?? 0, Math.max(0, ...mean) * 1.2) || 1
  const first = raw[0]?.step ?? 0
  const steps = Math.max(1, (raw.at(-1)?.step ?? 1) - first)
  const x = (step: number) => round(MARGIN.left + ((step - first) / steps) * plot.width)
  const y = (loss: number) => round(MARGIN.top + (1 - Math.min(loss, top * 1.05) / (top * 1.05)) * plot.height)
  const line = (values: number[]) => `M${raw.map(({ step }, i) => `${x(step)} ${y(values[i] as number)}`).join('L')}h.01`
  const ticks = (from: number, to: number, size: number) => {
    const begin = Math.ceil(from / size)
    return Array.from({ length: Math.floor(to / size) - begin + 1 }, (_, i) => (begin + i) * size)
  }
  const rows = ticks(0, top, tickSize(top, 6))
  const columns = ticks(first, first + steps, Math.max(1, tickSize(steps, 8)))
  const bottom = height - MARGIN.bottom
  const grid = rows.map((loss) => `M${MARGIN.left} ${y(loss)}h${plot.width}`).join('')
  const labels = [
    ...rows.map((loss) => word(tickText(loss), MARGIN.left - 10, y(loss) + 6, 1)),
    ...columns.map((step) => word(tickText(step), x(step), bottom + 20, 0.5)),
    word('loss', 10, MARGIN.top + 2, 0),
    word('step', width - MARGIN.right, height - 8, 1),
  ]
  const curve =
    raw.length === 0 ? '' : `<path stroke="#9ec5f0" d="${line(losses)}"/><path stroke="#1b5fae" stroke-width="2.5" d="${line(mean)}"/>`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" fill="none" stroke-linejoin="round" stroke-linecap="round">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    `<path stroke="#e4e4e4" d="${grid}"/><path stroke="#777" d="M${MARGIN.left} ${MARGIN.top}V${bottom}h${plot.width}"/>`,
    `${curve}<g stroke="#333" stroke-width="0.7">${labels.join('')}</g></svg>`,
  ].join('\n')
}

/** Draws the curve as PNG; sizes are in pixels. */
export async function lossCurvePng(points: CurvePoint[], size: { width?: number; height?: number } = {}): Promise<Uint8Array> {
  return sharp(Buffer.from(lossCurveSvg(points, size)))
    .png()
    .toBuffer()
}
