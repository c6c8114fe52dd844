/** Where to compute, in what precision, and how much memory there is. */

import { readFileSync } from 'node:fs'
import { freemem } from 'node:os'
import { join } from 'node:path'
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

/** Reads a file of /proc or /sys; empty if there is none. */
function readSystem(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** What Node says of memory, in bytes: what this process may still use, and what is free on the whole machine. */
const nodeMemory = () => ({ available: process.availableMemory(), free: freemem() })

/** Reads the memory statistics of this process's cgroup, version 2 or 1; in a container, that may be the root of what is mounted. */
function containerStatistics(read: (path: string) => string): string {
  const cgroups = read('/proc/self/cgroup')
  const [, own2] = /^0::(.+)$/m.exec(cgroups) ?? []
  const [, own1] = /^\d+:(?:.*,)?memory(?:,.*)?:(.+)$/m.exec(cgroups) ?? []
  const folder = own1 === undefined ? '/sys/fs/cgroup' : '/sys/fs/cgroup/memory'
  return read(join(folder, own1 ?? own2 ?? '', 'memory.stat')) || read(join(folder, 'memory.stat'))
}

/**
 * Returns how many bytes of memory are available, swap included. Trap: in a container with a limit, Node counts cached pages of files as
 * used, though the system drops them when memory is needed. Tests replace `read` and `memory`.
 */
export function availableMemory(read = readSystem, { available, free } = nodeMemory()): number {
  const [, swap = 0] = /^SwapFree: +(\d+) kB$/m.exec(read('/proc/meminfo')) ?? []
  if (available >= free) return free + Number(swap) * 1024
  const cached = containerStatistics(read).matchAll(/^(?:in)?active_file (\d+)$/gm)
  const droppable = Array.from(cached, ([, bytes]) => Number(bytes)).reduce((sum, bytes) => sum + bytes, 0)
  return Math.min(free, available + droppable) + Number(swap) * 1024
}
