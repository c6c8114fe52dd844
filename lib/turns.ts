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

/** Does work on items, `width` of them at a time, and returns the results in the items' order. The first failure, or the signal, stops it. */
export async function mapAtOnce<Item, Result>(
  items: Item[],
  width: number,
  work: (item: Item) => Promise<Result>,
  signal?: AbortSignal,
): Promise<Result[]> {
  const results = new Array<Result>(items.length)
  let next = 0
  const worker = async () => {
    while (next < items.length) {
      const i = next++
      try {
        signal?.throwIfAborted()
        results[i] = await work(items[i] as Item)
      } catch (error) {
        next = items.length
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: width }, worker))
  return results
}
