/** Where to compute, and in what: the options `device` and `precision` together. */

import { native, type SessionOptions } from './native.js'
import type { ResolvedTrainOptions } from './options/resolve.js'

export type Computation = Pick<SessionOptions, 'device' | 'precision' | 'threads'>

/**
 * What a session is opened with. `auto`: a GPU where one can be used, else the CPU; fp16 on a GPU and f32 on the CPU.
 * Throws `NATIVE_NOT_FOUND`.
 */
export function computation({ device, precision, threads }: Pick<ResolvedTrainOptions, 'device' | 'precision' | 'threads'>): Computation {
  const chosen = device === 'auto' ? (native().info().cuda.available ? 'cuda' : 'cpu') : device
  return { device: chosen, precision: precision === 'auto' ? (chosen === 'cuda' ? 'fp16' : 'f32') : precision, threads }
}
