/** Where to compute, in what precision, and how much memory there is. */

import { availableParallelism, freemem } from 'node:os'
import { join } from 'node:path'
import { readSystem } from './files/read.js'
import { native, type Session, type SessionOptions } from './native.js'
import { type Card, freeBytes } from './options/cards.js'
import type { ResolvedTrainOptions } from './options/resolve.js'

export type Computation = Pick<SessionOptions, 'device' | 'precision' | 'threads' | 'gpu'>

/** What says where to compute. */
export type Asked = Pick<ResolvedTrainOptions, 'device' | 'precision' | 'threads'> & { gpu?: Card | undefined }

/**
 * Resolves `auto`: the GPU if there is a usable one, otherwise the CPU; fp16 on a GPU, f32 on the CPU. `gpu`: a card to plan for.
 * Throws `NATIVE_NOT_FOUND`.
 */
export function computation({ device, precision, threads, gpu }: Asked): Computation {
  const chosen = gpu ? 'cuda' : device === 'auto' ? (native().info().cuda.available ? 'cuda' : 'cpu') : device
  const planned = gpu && { computeCapability: gpu.computeCapability, multiprocessors: gpu.multiprocessors, bytes: freeBytes(gpu) }
  return {
    device: chosen,
    precision: precision === 'auto' ? (chosen === 'cuda' ? 'fp16' : 'f32') : precision,
    threads,
    ...(planned && { gpu: planned }),
  }
}

/** Makes the event of a session in which fewer threads compute than were asked for; none where it has them all. */
export function threadWarnings(asked: number, session: Pick<Session, 'threads'>): { type: 'warning'; code: string; message: string }[] {
  const threads = session.threads()
  if (threads >= asked) return []
  const why = threads < availableParallelism() ? 'the system starts no more' : 'there are no more processors'
  return [{ type: 'warning', code: 'THREADS_LIMITED', message: `Expected ${asked} threads but received ${threads}, as ${why}` }]
}

/** Reads the memory statistics of this process's cgroup, version 1 or 2; in a container, that may be the root of what is mounted. */
function containerStatistics(read: typeof readSystem): string {
  const groups = read('/proc/self/cgroup')
  const [, controllers, own = ''] = /^\d+:([^:]*\bmemory\b[^:]*):(.*)$/m.exec(groups) ?? /^0:():(.*)$/m.exec(groups) ?? []
  const root = controllers ? '/sys/fs/cgroup/memory' : '/sys/fs/cgroup'
  return read(join(root, own, 'memory.stat')) || read(join(root, 'memory.stat'))
}

/**
 * Returns how many bytes of memory are available, swap included. Trap: in a container with a limit, Node counts cached pages of files as
 * used, though the system drops them when memory is needed. Tests replace the arguments.
 */
export function availableMemory(
  read = readSystem,
  { available, free } = { available: process.availableMemory(), free: freemem() },
): number {
  const [, swap = 0] = /^SwapFree: +(\d+) kB$/m.exec(read('/proc/meminfo')) ?? []
  const statistics = available < free ? containerStatistics(read) : ''
  let bytes = available
  for (const [, cached] of statistics.matchAll(/^(?:in)?active_file (\d+)$/gm)) bytes += Number(cached)
  return Math.min(free, bytes) + Number(swap) * 1024
}
