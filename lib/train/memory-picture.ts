/** Draws a plan: what is alive while each op of a step runs, on top of what stays. */
import { axis, chart, colours, heading, legend } from '../pictures/chart.js'
import type { TrainingPlan } from './plan.js'

const mebibytes = (bytes: number) => bytes / 2 ** 20
const written = (bytes: number) => `${Math.round(mebibytes(bytes)).toLocaleString('en')} MiB`

/** What stays over a step, from below; what lies in the machine's memory beside a GPU's is left out. */
function constant({ bytes, device }: TrainingPlan): [name: string, bytes: number][] {
  const host: [string, number][] = device === 'cpu' ? [['caches, programs, saving', bytes.caches + bytes.programs + bytes.saving]] : []
  return [['weights', bytes.weights], ['LoRA', bytes.adapters], ['gradients', bytes.gradients], ['optimizer', bytes.optimizer], ...host]
}

/** The op of the peak, counted from 0. */
const peakOf = ({ timeline }: TrainingPlan) => timeline.reduce((most, bytes, i) => (bytes > timeline[most]! ? i : most), 0)

function peakLabel({ largest }: TrainingPlan, peak: number): string {
  const [first] = largest
  const at = first && (first.layer === '' ? first.name : first.layer)
  return `peak ${written(peak)}${first ? `\nlargest: ${written(first.bytes)}, ${first.name} of\n${at}` : ''}`
}

/** Draws a plan's memory as SVG. */
export async function memorySvg(plan: TrainingPlan): Promise<string> {
  const { timeline, forward, bytes } = plan
  const ends = [1, timeline.length]
  let below = 0
  // Each area reaches down to the axis, and those of less memory lie over those of more.
  const stays = constant(plan).map(([name, size], i, { length }) => {
    below += size
    return { name: `${name} (${written(size)})`, data: ends.map((x) => [x, mebibytes(below)]), z: 2 + length - i }
  })
  const alive = timeline.map((bytes, i) => [i + 1, mebibytes(below + bytes)])
  const peak = peakOf(plan)
  const areas = [...stays, { name: `activations (${written(bytes.activations + bytes.workspace)})`, data: alive, z: 2 }]
  const most = mebibytes(Math.max(bytes.total, below + (timeline[peak] ?? 0)))
  const onLeft = peak > timeline.length / 2
  const series = areas.map(({ name, data, z }, i) => ({
    type: 'line' as const,
    ...{ name, data, z, symbol: 'none', color: colours.series[i === stays.length ? 0 : i + 1]! },
    ...{ lineStyle: { width: 1 }, areaStyle: { opacity: 1, origin: 'start' as const } },
  }))
  const marks = {
    type: 'line' as const,
    ...{ data: [], z: 20, color: colours.text },
    markPoint: {
      z: 20,
      ...{ symbol: 'circle', symbolSize: 9, itemStyle: { color: colours.accent } },
      label: {
        ...{ formatter: peakLabel(plan, below + (timeline[peak] ?? 0)), color: colours.text, fontSize: 15, lineHeight: 20 },
        ...{
          offset: [0, -42],
          position: onLeft ? ('left' as const) : ('right' as const),
          align: onLeft ? ('right' as const) : ('left' as const),
        },
      },
      data: [{ name: 'peak', coord: alive[peak] ?? [1, 0] }],
    },
    markLine: {
      z: 20,
      ...{ symbol: 'none', silent: true, lineStyle: { color: colours.axis, type: 'dashed' as const } },
      label: { color: colours.text, fontSize: 15 },
      data: [
        { yAxis: mebibytes(bytes.total), label: { formatter: `planned: ${written(bytes.total)}`, position: 'insideStartTop' as const } },
        { xAxis: forward, label: { formatter: 'forward ◂ ▸ backward', position: 'end' as const } },
      ],
    },
  }
  const { model, images, steps, precision, device } = plan
  const where = plan.gpu?.name ?? (device === 'cpu' ? 'the CPU' : 'the GPU')
  return chart({
    title: heading('Memory over the ops of a step', `${model}; ${images} images, ${steps} steps, ${precision} on ${where}`),
    legend: legend(areas.map(({ name }) => name)),
    grid: { left: 100, right: 40, top: 110, bottom: 130 },
    xAxis: axis('op of the step, in the order in which they run', 34, {
      min: 1,
      max: Math.max(2, timeline.length),
      splitLine: { show: false },
    }),
    yAxis: axis('memory (MiB)', 70, { min: 0, max: Math.ceil(most * 1.22), showMaxLabel: false }),
    series: [...series, marks],
  })
}
