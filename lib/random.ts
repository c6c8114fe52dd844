/**
 * Numbers that look random and are a pure function of where they are used: seed, stream, step, index. No state, so that a resumed run, and
 * any number of threads, see the same ones. Philox 4×32-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
 */
import { turns } from './turns.js'

/** One for each use: never reused, never renumbered. */
const STREAMS = { adapters: 1, posterior: 2, crop: 3, order: 4, flip: 5, timesteps: 6, noise: 7, latents: 8, ancestral: 9 } as const

/** Names a sequence of numbers. */
export interface Place {
  /** 0 to 2³² − 1. */
  seed: number
  /** `latents`: where `generate` starts, `ancestral`: what its samplers add; the others are a training's. */
  stream: keyof typeof STREAMS
  /** Step, epoch, or whatever repeats; default 0. */
  step?: number
  /** Sample, image, or whatever is drawn for; default 0. */
  index?: number
}

type Words4 = [number, number, number, number]

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57] as const
const WEYL = [0x9e3779b9, 0xbb67ae85] as const

/** High 32 bits of the product of two 32-bit numbers. */
function high(a: number, b: number): number {
  const [aLow, aHigh, bLow, bHigh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16]
  // Every sum stays below 2³², so that >>> is exact.
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  return aHigh * bHigh + (middle >>> 16) + ((aLow * bHigh + (middle & 0xffff)) >>> 16)
}

/** The block of four 32-bit words at a counter under a key. */
export function philox(counter: Words4, key: [number, number]): Words4 {
  let [x0, x1, x2, x3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const h0 = high(x0, MULTIPLIERS[0])
    const h2 = high(x2, MULTIPLIERS[1])
    const low0 = Math.imul(x0, MULTIPLIERS[0])
    const low2 = Math.imul(x2, MULTIPLIERS[1])
    x0 = (h2 ^ x1 ^ k0) >>> 0
    x1 = low2 >>> 0
    x2 = (h0 ^ x3 ^ k1) >>> 0
    x3 = low0 >>> 0
    k0 = (k0 + WEYL[0]) >>> 0
    k1 = (k1 + WEYL[1]) >>> 0
  }
  return [x0, x1, x2, x3]
}

/** `count` uniform 32-bit words from the one numbered `first`, a multiple of 4. */
function words(place: Place, count: number, first = 0): Uint32Array {
  const { seed, stream, step = 0, index = 0 } = place
  const filled = new Uint32Array(Math.ceil(count / 4) * 4)
  for (let at = 0; at < count; at += 4) filled.set(philox([(first + at) / 4, index, step, 0], [seed, STREAMS[stream]]), at)
  return filled.subarray(0, count)
}

/** `count` numbers, uniform in the open interval (0, 1), from the one numbered `first`, a multiple of 4. */
export function uniform(place: Place, count: number, first = 0): Float64Array {
  return Float64Array.from(words(place, count, first), (word) => (word + 0.5) / 2 ** 32)
}

/** One whole number, uniform in 0 … `below` − 1, to within 2⁻³². */
export function integer(place: Place, below: number): number {
  return Math.floor((words(place, 1)[0] as number) * (below / 2 ** 32))
}

/** `count` standard normal numbers (Box and Muller). */
export function normal(place: Place, count: number): Float32Array {
  const drawn = uniform(place, count + (count % 2))
  const values = new Float32Array(count)
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(drawn[i] as number))
    const angle = 2 * Math.PI * (drawn[i + 1] as number)
    values[i] = radius * Math.cos(angle)
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle)
  }
  return values
}

/** How many numbers `shuffle` draws at a time. */
const SLICE = 4096

/** Brings values into an order as likely as any other (Fisher and Yates), in pieces. */
export async function shuffle(values: Uint32Array, place: Place): Promise<void> {
  const turn = turns()
  for (let end = values.length; end > 0; ) {
    const begin = Math.floor((end - 1) / SLICE) * SLICE
    const drawn = uniform(place, end - begin, begin)
    for (let i = end - 1; i >= begin; i--) {
      const j = Math.floor((drawn[i - begin] as number) * (i + 1))
      const value = values[i] as number
      values[i] = values[j] as number
      values[j] = value
    }
    end = begin
    await turn()
  }
}
