/** The estimates of roofline.ts as tables of docs/gpu.md. */
import { CAUTION, type Counted, GPU, type Op, type Row, rows } from './roofline.js'

const line = (cells: (string | number)[]) => `| ${cells.join(' | ')} |\n`

/** The goals for SD1.5 at 512 px and for SDXL at 1024 px, batch 1: milliseconds a step, and MiB. */
const goals = {
  sd15: line(['goals: stretch, must (floor 35)', '', 55, 65, 2662, '', '']),
  sdxl: line(['goals: attention, all layers', '', '', 450, '9830, 10240', '', '']),
}

/**
 * AdamW and its norm are no part of the graph: each adapter's value is read, its gradient twice, both moments; value, moments and a
 * zero for the gradient are written. `adapters`: the bytes of these four arrays.
 */
const bytesOfUpdate = (adapters: number) => (9 / 4) * adapters

/** What any program has to do: every op at the GPU's peaks, whichever takes longer, each tensor moved once. */
export function opTable(ops: Op[]): string {
  const kinds = new Map<string, { count: number; flops: number; bytes: number; seconds: number }>()
  for (const { name, flops, bytes } of ops) {
    const seconds = Math.max(flops / (GPU.tensor * GPU.multiprocessors * GPU.clock), bytes / GPU.memory)
    for (const kind of [name.split(' ')[0]!, '**all**']) {
      const sum = kinds.get(kind) ?? { count: 0, flops: 0, bytes: 0, seconds: 0 }
      kinds.set(kind, { count: sum.count + 1, flops: sum.flops + flops, bytes: sum.bytes + bytes, seconds: sum.seconds + seconds })
    }
  }
  const sorted = [...kinds].sort(([a, x], [b, y]) => Number(a === '**all**') - Number(b === '**all**') || y.seconds - x.seconds)
  return [
    line(['op', 'count', 'GFLOP', 'MiB', 'ms at the peaks']),
    line(Array(5).fill('---')),
    ...sorted.map(([kind, { count, flops, bytes, seconds }]) =>
      line([kind, count, (flops * 1e-9).toFixed(1), Math.round(bytes / 2 ** 20), (1e3 * seconds).toFixed(2)]),
    ),
  ].join('')
}

const ms = (seconds: number) => (1e3 * seconds).toFixed(2)
const sum = (of: Row[], value: (r: Row) => number) => of.reduce((total, r) => total + value(r), 0)

/** A step in seconds, at the peaks and with caution: its kernels, the update and what lies between launches. */
function step(table: Row[], memory: Counted['memory']) {
  const launches = sum(table, (r) => r.launches)
  const gaps = launches * GPU.gap
  const update = bytesOfUpdate(memory.adapters * 2 ** 20) / GPU.memory
  const seconds = sum(table, (r) => r.seconds) + gaps + update
  const cautious = sum(table, (r) => r.cautious) + gaps + update / CAUTION.memory
  return { launches, gaps, update, seconds, cautious }
}

export function kernelTable({ ops, code, memory }: Counted): string {
  const table = rows(ops, code)
  const percent = (x: number) => `${Math.round(100 * x)}`
  const bySize = (by: Row['by']) =>
    Object.entries(by)
      .sort(([, a], [, b]) => b - a)
      .filter(([, share]) => share >= 0.15)
      .map(([bound, share]) => (share > 0.85 ? bound : `${bound} ${percent(share)} %`))
      .join(', ')
  const small = table.filter(({ seconds }) => seconds < 5e-5)
  const large = table.filter((r) => !small.includes(r))
  const { launches, gaps, update, seconds, cautious } = step(table, memory)
  const waves = (n: number) => (n < 10 ? n.toFixed(1) : `${Math.round(n)}`)
  return [
    line([
      'kernel',
      'launches',
      'ms',
      'decided by',
      'cautious ms',
      'tensor %',
      'conflicts %',
      'sectors %',
      'registers',
      'blocks/SM',
      'occupancy %',
      'waves',
    ]),
    line(Array(12).fill('---')),
    ...large.map((r) =>
      line([
        `\`${r.kernel}\``,
        r.launches,
        ms(r.seconds),
        bySize(r.by),
        ms(r.cautious),
        percent(r.tensor),
        percent(r.conflicts),
        percent(r.sectors),
        r.registers,
        r.blocksPerMultiprocessor,
        percent(r.occupancy),
        r.waves
          .map(waves)
          .filter((w, i, a) => a.indexOf(w) === i)
          .join('–'),
      ]),
    ),
    line([
      `${small.length} others`,
      sum(small, (r) => r.launches),
      ms(sum(small, (r) => r.seconds)),
      '',
      ms(sum(small, (r) => r.cautious)),
      ...Array(7).fill(''),
    ]),
    line(['AdamW and the norm (bytes)', '', ms(update), 'memory', ms(update / CAUTION.memory), ...Array(7).fill('')]),
    line([`between ${launches} launches`, '', ms(gaps), 'assumed', ms(gaps), ...Array(7).fill('')]),
    line(['**a step**', launches, `**${ms(seconds)}**`, '', `**${ms(cautious)}**`, ...Array(7).fill('')]),
  ].join('')
}

/** Whole steps of a model, by what is trained, beside the goals. */
export function stepTable(model: keyof typeof goals, counted: Record<string, Counted>): string {
  const teraflops = (of: number[]) => (of.reduce((total, n) => total + n, 0) * 1e-12).toFixed(2)
  return [
    line(['rank 16 on', 'launches', 'ms at the peaks', 'ms with caution', 'MiB planned', 'TFLOP needed', 'TFLOP done']),
    line(Array(7).fill('---')),
    ...Object.entries(counted).map(([trained, { ops, code, memory }]) => {
      const { launches, seconds, cautious } = step(rows(ops, code), memory)
      const needed = teraflops(ops.map((op) => op.flops))
      const done = teraflops(ops.flatMap((op) => op.launches.map(({ counters }) => 2048 * counters.mma_k8)))
      return line([trained, launches, `**${ms(seconds)}**`, `**${ms(cautious)}**`, `**${memory.all}**`, needed, done])
    }),
    goals[model],
  ].join('')
}
