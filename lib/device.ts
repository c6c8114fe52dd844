/** Where to compute, in what precision, and how much memory there is. */

import { readFileSync } from 'node:fs'
import { freemem } from 'node:os'
import { native, type SessionOptions } from './native.js'
import type { ResolvedTrainOptions } from './options/resolve.js'

export type Computation = Pick<SessionOptions, 'device' | 'precision' | 'threads'>

/**
 * Resolves `auto`: the GPU if there is a usable one, otherwise the CPU; fp16 on a GPU, f32 on the CPU.
 * Throws `NATIVE_NOT_FOUND`.
 */
export function computation({ device, precision, threads }: Pick<ResolvedTrainOptions, 'device' | 'precision' | 'threads'>): Computation {
  const chosen = device === 'auto' ? (native().info().cuda.available ? 'cuda' : 'cpu') : device
  return { device: chosen, precision: precision === 'auto' ? (chosen === 'cuda' ? 'fp16' : 'f32') : precision, threads }
}

/** Memory statistics of the container, in cgroups v2 and v1. */
const CONTAINER = ['/sys/fs/cgroup/memory.stat', '/sys/fs/cgroup/memory/memory.stat']

/**
 * Returns how many bytes of system memory are available. Trap: in a container with a limit, Node counts cached pages of files as used,
 * though the system drops them when memory is needed.
 */
export function availableMemory(): number {
  const [available, free] = [process.availableMemory(), freemem()]
  if (available >= free) return free
  for (const path of CONTAINER) {
    try {
      const cached = readFileSync(path, 'utf8').matchAll(/^(?:in)?active_file (\d+)$/gm)
      return Math.min(
        free,
        [...cached].reduce((sum, [, bytes]) => sum + Number(bytes), available),
      )
    } catch {}
  }
  return available
}
