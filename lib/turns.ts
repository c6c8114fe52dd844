/** Work on the main thread in pieces, so that signals, timers and other work are heard between them. */
import { setImmediate } from 'node:timers/promises'

const LONGEST_MS = 10
/** How many numbers are worked on between two turns: a few milliseconds. */
const PIECE = 16384

/** What is awaited between pieces of work. */
export type Turn = () => Promise<void>

/** Returns a function to await between pieces: where the last turn of the event loop is long ago, it makes one. It throws the signal's reason. */
export function turns(signal?: AbortSignal): Turn {
  let began = performance.now()
  return async () => {
    if (performance.now() - began < LONGEST_MS) return
    await setImmediate()
    began = performance.now()
    signal?.throwIfAborted()
  }
}

/** Does work on `length` numbers, of which each call gets a few, and awaits `turn` after each. Pieces begin at multiples of 4. */
export async function inPieces(length: number, turn: Turn, work: (begin: number, end: number) => void): Promise<void> {
  for (let begin = 0; begin < length; begin += PIECE) {
    work(begin, Math.min(length, begin + PIECE))
    await turn()
  }
}

/** Sorts texts by code units. */
export async function sortInTurns(texts: string[], turn: Turn = turns()): Promise<string[]> {
  if (texts.length <= 4096) return texts.sort()
  const half = texts.length >> 1
  const left = await sortInTurns(texts.slice(0, half), turn)
  const right = await sortInTurns(texts.slice(half), turn)
  await turn()
  const sorted: string[] = []
  let [i, j] = [0, 0]
  while (i < left.length && j < right.length) sorted.push(left[i]! <= right[j]! ? left[i++]! : right[j++]!)
  while (i < left.length) sorted.push(left[i++]!)
  while (j < right.length) sorted.push(right[j++]!)
  return sorted
}

/** Shares out what there is little of, such as memory, in the order in which it is asked for. */
class Supply {
  private used = 0
  private readonly waiting: { amount: number; begin: () => void }[] = []

  constructor(private readonly most: number) {}

  /** Does work when this much is free; what needs more than there is does it alone. */
  async use<Result>(amount: number, work: () => Promise<Result>): Promise<Result> {
    const needed = Math.min(amount, this.most)
    await new Promise<void>((begin) => {
      this.waiting.push({ amount: needed, begin })
      this.serve()
    })
    try {
      return await work()
    } finally {
      this.used -= needed
      this.serve()
    }
  }

  private serve(): void {
    for (let next = this.waiting[0]; next && this.used + next.amount <= this.most; next = this.waiting[0]) {
      this.waiting.shift()
      this.used += next.amount
      next.begin()
    }
  }
}

/** How many bytes items need, and how many they may need together; one alone may need more. */
export interface Memory<Item> {
  most: number
  of(item: Item): number | Promise<number>
}

/**
 * Does work on items, `width` of them at a time, fewer where they need much memory, and returns the results in the items' order. The first
 * failure, or the signal, stops it.
 */
export async function mapAtOnce<Item, Result>(
  items: Item[],
  width: number,
  work: (item: Item) => Promise<Result>,
  signal?: AbortSignal,
  memory?: Memory<Item>,
): Promise<Result[]> {
  const supply = new Supply(memory?.most ?? Infinity)
  const results = new Array<Result>(items.length)
  let [next, failed] = [0, false]
  const step = async (i: number) => {
    try {
      signal?.throwIfAborted()
      // Another may have failed while this one waited for memory.
      if (!failed) results[i] = await work(items[i] as Item)
    } catch (error) {
      failed = true
      throw error
    }
  }
  const worker = async () => {
    while (next < items.length && !failed) {
      const i = next++
      await supply.use(memory ? await memory.of(items[i] as Item) : 0, () => step(i))
    }
  }
  await Promise.all(Array.from({ length: width }, worker))
  return results
}
