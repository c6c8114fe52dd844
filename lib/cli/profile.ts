/** A profile as text. */
import type { ProfileEvent, ProfileRow } from '../events.js'
import { columns } from './columns.js'

export const percent = (share: number) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`

/** A rate in billions a second; ops that compute nothing have none. */
const giga = (rate: number) => (rate > 0 ? (rate / 1e9).toFixed(rate < 1e10 ? 1 : 0) : '')

function line({ name, count, seconds, share, flopsPerSecond, bytesPerSecond, ofPeak }: ProfileRow): string[] {
  const peak = ofPeak > 0 ? percent(ofPeak) : ''
  return [name || 'no layer', `${count}`, (1e3 * seconds).toFixed(1), percent(share), giga(flopsPerSecond), giga(bytesPerSecond), peak]
}

export function describeProfile({ step, path, seconds, ops, layers }: ProfileEvent): string {
  const head = (name: string) => [name, 'ops', 'ms', 'share', 'GFLOP/s', 'GB/s', 'of peak']
  return [
    `step ${step} op by op: ${(1e3 * seconds).toFixed(0)} ms; trace for ui.perfetto.dev: ${path}`,
    columns([head('op'), ...ops.map(line)]),
    'the layers that took longest:',
    columns([head('layer'), ...layers.map(line)]),
  ].join('\n')
}
