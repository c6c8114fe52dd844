/** What the ops of one step took: sums by kind and by layer, and a trace for Perfetto and Chrome. */
import { dirname } from 'node:path'
import type { ProfileEvent, ProfileRow } from '../events.js'
import { makeFolder, writeAtomically } from '../files/atomic.js'
import type { Speeds, StepProfile } from '../native.js'
import { secondsOf } from './plan.js'

/** The first two steps bring weights into the kernels' layout and, on a GPU, capture the step. */
const PROFILED = 3
const MOST_LAYERS = 10

/** Which step is profiled of those after `from`. */
export function profiledStep(from: number, steps: number): number {
  return Math.min(from + PROFILED, steps)
}

export interface Profiled {
  step: number
  /** Of its batches. */
  profiles: StepProfile[]
  speeds: Speeds
}

type Node = StepProfile['nodes'][number]

const total = <Item>(items: Item[], of: (item: Item) => number) => items.reduce((sum, item) => sum + of(item), 0)

const secondsTaken = ({ profiles }: Profiled) =>
  total(profiles, ({ nodes, updateSeconds }) => updateSeconds + total(nodes, ({ seconds }) => seconds))

/** Sums the ops that share a name, those that took longest first. */
function rows(profiled: Profiled, nameOf: (node: Node) => string): ProfileRow[] {
  const groups = new Map<string, Node[]>()
  for (const node of profiled.profiles.flatMap(({ nodes }) => nodes)) {
    const group = groups.get(nameOf(node))
    if (group) group.push(node)
    else groups.set(nameOf(node), [node])
  }
  const all = secondsTaken(profiled)
  const found = Array.from(groups, ([name, nodes]) => {
    const seconds = total(nodes, (node) => node.seconds)
    return {
      ...{ name, count: nodes.length, seconds, share: seconds / all },
      flopsPerSecond: total(nodes, ({ flops }) => flops) / seconds,
      bytesPerSecond: total(nodes, ({ bytes }) => bytes) / seconds,
      ofPeak: secondsOf({ nodes }, profiled.speeds) / seconds,
    }
  })
  return found.sort((a, b) => b.seconds - a.seconds)
}

function updateRow(profiled: Profiled): ProfileRow {
  const seconds = total(profiled.profiles, ({ updateSeconds }) => updateSeconds)
  const share = seconds / secondsTaken(profiled)
  return { name: 'update', count: 1, seconds, share, flopsPerSecond: 0, bytesPerSecond: 0, ofPeak: 0 }
}

/** Writes a step as the Trace Event Format has it: complete events of one thread, one after the other, in microseconds. */
export function traceOf({ step, profiles }: Profiled): string {
  let ts = 0
  const complete = (name: string, seconds: number, args: Record<string, unknown>) => {
    const event = { ph: 'X', name, cat: 'op', pid: 1, tid: 1, ts, dur: seconds * 1e6, args }
    ts += event.dur
    return event
  }
  const events = profiles.flatMap(({ nodes, updateSeconds }) => [
    ...nodes.map(({ op, layer, shape, flops, bytes, seconds }) => complete(op, seconds, { layer, shape: shape.join(' × '), flops, bytes })),
    ...(updateSeconds > 0 ? [complete('update', updateSeconds, {})] : []),
  ])
  const named = [
    { ph: 'M', name: 'process_name', pid: 1, args: { name: 'lorafuse' } },
    { ph: 'M', name: 'thread_name', pid: 1, tid: 1, args: { name: `step ${step}` } },
  ]
  return JSON.stringify({ displayTimeUnit: 'ms', traceEvents: [...named, ...events] })
}

/** Writes the trace and sums the profile up. Throws as `writeAtomically`. */
export async function writeProfile(path: string, profiled: Profiled): Promise<ProfileEvent> {
  await makeFolder(dirname(path))
  await writeAtomically(path, traceOf(profiled))
  const ops = [...rows(profiled, ({ op }) => op), updateRow(profiled)].sort((a, b) => b.seconds - a.seconds)
  const layers = rows(profiled, ({ layer }) => layer).slice(0, MOST_LAYERS)
  return { type: 'profile', step: profiled.step, path, seconds: secondsTaken(profiled), ops, layers }
}
