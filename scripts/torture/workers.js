// Worker threads that train and are ended at random moments, in one process; memory, maps, threads, descriptors.
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { train } from '../../dist/lib/index.js'
import { differs, freshFolder, makeImages, options, undisturbed } from './place.js'
import { grown, holdsAtRest, shown } from './process.js'

/**
 * Threads that end leave more in the allocators than a round in one thread: V8's heap of each is of another size. Node itself does not
 * close a file whose opening was under way when its worker ended, be it a module that is imported.
 */
const SLACK = { memory: 2 ** 18, descriptors: 2 }
const WARM = 6

const source = new URL('./worker-thread.js', import.meta.url)

/** Trains in a worker that ends at a moment: `{ event, nth, how }`, or after milliseconds. Resolves to what went wrong. */
function inWorker(input, moment) {
  return new Promise((resolve) => {
    const worker = new Worker(source, { workerData: { input, moment } })
    let problem
    const timer = moment.after === undefined ? undefined : setTimeout(() => worker.terminate(), moment.after)
    worker.on('message', () => worker.terminate())
    worker.on('error', (error) => {
      if (error.message !== 'mine') problem = `the worker's ${error.stack}`
    })
    worker.on('exit', () => {
      clearTimeout(timer)
      resolve(problem)
    })
  })
}

function momentOf(index, random, span) {
  const how = ['terminate', 'after', 'exit', 'throw', 'after', 'terminate'][index % 6]
  if (how === 'after') return { how, after: random.next() * span }
  return {
    how,
    event: random.pick(['cache', 'start', 'step', 'step', 'step', 'checkpoint']),
    nth: 1 + random.below(4),
    wait: random.below(4),
  }
}

export const workers = {
  name: 'workers',
  lanes: 1,
  short: 3,

  async begin(folder) {
    const images = await makeImages(folder)
    const began = performance.now()
    await inWorker(options(images, freshFolder(folder, 'span')), {})
    const span = performance.now() - began
    return { folder, images, span, expected: await undisturbed(folder, images) }
  },

  async round(context, index, random, count) {
    const { folder, images, span, expected } = context
    if (index === WARM) context.before = await holdsAtRest()
    const output = freshFolder(folder, 'output')
    // Every third round is two at once, in folders of their own.
    const outputs = index % 3 === 2 ? [output, freshFolder(folder, 'other')] : [output]
    const moments = outputs.map((_, i) => momentOf(index + i, random, span))
    for (const { how } of moments) count(how)
    const problems = await Promise.all(outputs.map((place, i) => inWorker(options(images, place, { threads: 1 + (i % 2) }), moments[i])))
    const found = problems.find(Boolean)
    if (found) return found
    if (index % 3 !== 0 || !existsSync(output)) return undefined
    // What a worker left is taken up in this thread.
    await sleep(random.below(20))
    await train(options(images, output, { resume: true }))
    count('resumed')
    return differs(output, expected.trajectory)
  },

  async end({ before }, rounds) {
    if (!before) return []
    const after = await holdsAtRest()
    console.log(`workers: at the start ${shown(before)}\nworkers: at the end   ${shown(after)}`)
    return grown(before, after, rounds - WARM, SLACK)
  },
}
