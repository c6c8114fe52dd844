/** Offers a training as an async iterable of its events. */

import type { TrainEvent } from '../events.js'
import type { TrainOptions } from '../options/resolve.js'
import { train } from './run.js'

/** Ends with the training. Leaving the loop, or disposal, stops the training. */
export interface TrainEvents extends AsyncIterableIterator<TrainEvent>, AsyncDisposable {}

/** Adds an event to a queue of at most `most`. The oldest step makes room, so memory is bounded and training never waits for a reader. */
export function enqueue(queue: TrainEvent[], event: TrainEvent, most = 1024): void {
  queue.push(event)
  if (queue.length <= most) return
  const dropped = queue.findIndex(({ type }) => type === 'step' || type === 'cache')
  if (dropped >= 0) queue.splice(dropped, 1)
}

async function* follow(options: TrainOptions, signal: AbortSignal | undefined): AsyncGenerator<TrainEvent, void, undefined> {
  const queue: TrainEvent[] = []
  const left = new AbortController()
  let wake = () => {}
  let finished = false
  const onEvent = (event: TrainEvent) => {
    enqueue(queue, event)
    wake()
  }
  const run = train(options, { signal: AbortSignal.any(signal ? [signal, left.signal] : [left.signal]), onEvent }).finally(() => {
    finished = true
    wake()
  })
  // The loop's end awaits `run`; until then its rejection must not count as unhandled.
  run.catch(() => undefined)
  try {
    for (;;) {
      const event = queue.shift()
      if (event) yield event
      else if (finished) break
      else await new Promise<void>((resolve) => (wake = resolve))
    }
    await run
  } finally {
    left.abort()
    await run.catch(() => undefined)
  }
}

/**
 * Trains while its events are read: `for await (const event of trainEvents(options)) …`. Begins with the first read. Leaving the loop stops
 * the training after the current step and saves its state. A reader more than 1,024 events behind misses the oldest steps. Throws as
 * `train`.
 */
export function trainEvents(options: TrainOptions, { signal }: { signal?: AbortSignal } = {}): TrainEvents {
  const events = follow(options, signal)
  return Object.assign(events, {
    async [Symbol.asyncDispose]() {
      await events.return()
    },
  })
}
