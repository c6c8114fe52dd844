// Trains in a worker thread, which ends itself, or asks to be ended, at an event.
import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { train } from '../../dist/lib/index.js'

const { input, moment } = workerData
let seen = 0

async function end() {
  if (moment.wait > 0) await sleep(moment.wait)
  if (moment.how === 'exit') process.exit(3)
  parentPort.postMessage('end me')
}

function onEvent({ type }) {
  if (type !== moment.event || ++seen !== moment.nth) return
  if (moment.how === 'throw') throw new Error('mine')
  end()
}

await train(input, { onEvent })
