/** Values that no caller means, and ways to put them into arguments that are right otherwise. */
import type { Session } from '../../lib/native.js'

/** Thrown by getters and traps: an addon may only pass it on. */
export const thrown = Object.assign(new Error('from a getter'), { code: 'FROM_A_GETTER' })

/** Numbers in [0, 1) from a seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

function detached(): Float32Array {
  const array = new Float32Array(4)
  structuredClone(array.buffer, { transfer: [array.buffer] })
  return array
}

/** A view that no longer fits its buffer. */
function shrunk(): Float32Array {
  const Resizable = ArrayBuffer as unknown as new (bytes: number, options: object) => ArrayBuffer & { resize(bytes: number): void }
  const buffer = new Resizable(64, { maxByteLength: 64 })
  const array = new Float32Array(buffer)
  buffer.resize(2)
  return array
}

const throwing = () => {
  throw thrown
}
const trap = { get: throwing, has: throwing, ownKeys: throwing, getOwnPropertyDescriptor: throwing, getPrototypeOf: throwing }

/** A list whose every item is there, by its prototype, and which its getters make longer. */
function endless(): number[] {
  const list: number[] = [1]
  Object.defineProperty(list, 0, { get: () => list.push(1) })
  return list
}

const makers: (() => unknown)[] = [
  ...[undefined, null, true, false, Number.NaN, Infinity, -Infinity, -0, 0, 1, -1, 0.5, 3, 7, 17, 2 ** 31 - 1, 2 ** 31, 2 ** 32].map(
    (value) => () => value,
  ),
  ...[2 ** 40, 2 ** 53, -(2 ** 53), 2 ** 53 + 2, 1e308, 5e-324, 10n ** 30n, Symbol('s'), '', 'x', '\0', '\ud800', '__proto__'].map(
    (value) => () => value,
  ),
  () => 'x'.repeat(100_000),
  () => '/proc/self/mem',
  () => '/dev/zero',
  () => [],
  () => [Number.NaN],
  () => ['a', 1],
  () => [[[]]],
  () => new Array(5),
  () => new Array(2 ** 32 - 1),
  () => [2 ** 53, 2 ** 53, 2 ** 53],
  () => [1, 2 ** 20, 2 ** 20, 4],
  () => new Array(1000).fill(1),
  endless,
  () => ({}),
  () => Object.create(null),
  () => ({ length: 3, 0: 1 }),
  () => new Proxy({}, {}),
  () => new Proxy([], {}),
  () => new Proxy({}, trap),
  () => new Proxy([1, 2], trap),
  () => new Proxy({}, { ownKeys: () => ['a', 'b'], getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }) }),
  () => () => 1,
  () => new Date(),
  () => /x/,
  () => new Map([['a', 1]]),
  () => Promise.resolve(1),
  () => new Number(4),
  () => new String('unet'),
  detached,
  shrunk,
  () => new Float32Array(0),
  () => new Float32Array(1),
  () => new Float32Array(4).fill(Number.NaN),
  () => new Float32Array(new SharedArrayBuffer(64)),
  () => new Int32Array([-1]),
  () => new Int32Array(4).fill(2 ** 31 - 1),
  () => new Float64Array(4),
  () => new Uint8Array(16),
  () => new DataView(new ArrayBuffer(8)),
  () => new ArrayBuffer(8),
]

export class Oddities {
  constructor(private readonly random: () => number) {}

  below(n: number): number {
    return Math.floor(this.random() * n)
  }
  of<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)]!
  }
  value(): unknown {
    return this.of(makers)()
  }

  /** Returns a copy of the value in which one property, however deep, is another; a value without properties is replaced. */
  private replace(value: unknown, by: (old: unknown) => PropertyDescriptor): unknown {
    const isTree = typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)
    if (!isTree) return by(value).value
    const copy: object = Array.isArray(value) ? [...value] : { ...value }
    const keys = Object.keys(copy)
    if (keys.length === 0) return by(value).value
    const key = this.of(keys)
    const old = (copy as Record<string, unknown>)[key]
    const deeper = typeof old === 'object' && old !== null && !ArrayBuffer.isView(old) && this.random() < 0.8
    const descriptor = deeper ? { value: this.replace(old, by) } : by(old)
    Object.defineProperty(copy, key, { enumerable: true, configurable: true, ...descriptor })
    return copy
  }

  /** Returns arguments with something odd in one of them, or with too few or too many of them. */
  spoil(given: unknown[], session: Session | undefined): unknown[] {
    const spoilt = [...given]
    const kind = this.below(20)
    if (kind === 0) return given.slice(0, this.below(given.length + 1))
    if (kind === 1) return [...given, this.value()]
    const i = this.below(given.length)
    if (kind === 2) spoilt[i] = this.value()
    else spoilt[i] = this.replace(given[i], (old) => this.descriptor(old, session))
    return spoilt
  }

  private descriptor(old: unknown, session: Session | undefined): PropertyDescriptor {
    const first = this.of([throwing, () => session?.dispose(), () => session?.losses().catch(() => undefined), () => session?.attach([])])
    const get = () => {
      first()
      return old
    }
    return this.random() < 0.3 ? { get } : { value: this.value() }
  }
}
