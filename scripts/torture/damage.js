// Damaged states, LoRAs, configs, weights, images, captions and options, in a process that may die of them.
import { fork } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'

/** A case that takes longer hangs. */
const HANGS = 30_000
/** No case needs more. */
const MOST_MEMORY = 2 ** 30

/** A process that answers cases; made anew when one ended it. */
class Patient {
  constructor(words) {
    this.words = words
  }

  start() {
    this.child = fork(new URL('./damage-child.js', import.meta.url), this.words, { stdio: ['ignore', 'inherit', 'pipe', 'ipc'] })
    this.stderr = ''
    this.child.stderr.on('data', (piece) => (this.stderr = (this.stderr + piece).slice(-2000)))
  }

  /** Runs a case; resolves to what it counts and what went wrong. */
  treat(index) {
    if (!this.child) this.start()
    const { child } = this
    return new Promise((resolve) => {
      const end = (answer) => {
        clearTimeout(timer)
        child.removeAllListeners('message').removeAllListeners('exit')
        resolve(answer)
      }
      const lost = (problem) => {
        this.child = undefined
        child.kill('SIGKILL')
        end({ counts: [], problem })
      }
      const timer = setTimeout(() => lost(`a hang of ${HANGS / 1000} s`), HANGS)
      child.on('message', end)
      child.on('exit', (code, signal) => lost(`the end of the process by ${signal ?? code}: ${this.stderr.trim().slice(-400)}`))
      child.send(index)
    })
  }

  stop() {
    this.child?.kill('SIGKILL')
  }
}

export const damage = {
  name: 'damage',
  lanes: availableParallelism(),
  short: 120,

  async begin(folder, { seed }) {
    return Array.from({ length: this.lanes }, (_, lane) => new Patient([join(folder, `damage ${lane}`), seed]))
  },

  async round(patients, index, _random, count, lane) {
    const { counts, problem, peak } = await patients[lane].treat(index)
    for (const what of counts) count(what)
    return problem ?? (peak > MOST_MEMORY ? `${Math.round(peak / 2 ** 20)} MiB of memory: ${counts}` : undefined)
  },

  async end(patients) {
    for (const patient of patients) patient.stop()
    return []
  },
}
