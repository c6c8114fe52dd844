// Damaged states, LoRAs, configs, weights, images, captions and options, in a process that may die of them.
import { execFileSync, fork } from 'node:child_process'
import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { root } from './rig.js'

/** A case that takes longer hangs; under ASan all is several times as slow. */
const HANGS = 30_000
/** No case needs more. */
const MOST_MEMORY = 2 ** 30

/** The environment in which Node loads the core that is built with ASan and UBSan. */
export function asanEnvironment(folder) {
  const built = join(root, 'build/sanitize')
  if (!existsSync(join(built, 'lorafuse.node')))
    throw new Error(`Expected ${built}/lorafuse.node but found none; npm run test:asan builds it`)
  if (mkdirSync(join(folder, 'asan/build'), { recursive: true })) symlinkSync(built, join(folder, 'asan/build/Release'))
  const library = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
  return { LD_PRELOAD: library, ASAN_OPTIONS: 'detect_leaks=0', LORAFUSE_PREBUILD: join(folder, 'asan') }
}

/** A process that answers cases; made anew when one ended it. `script`: what it runs. */
export class Patient {
  constructor(script, words, environment) {
    this.script = script
    this.words = words
    this.env = { ...process.env, ...environment }
    this.patience = HANGS * (environment ? 4 : 1)
  }

  start() {
    const { env } = this
    this.child = fork(new URL(this.script, import.meta.url), this.words, { env, stdio: ['ignore', 'inherit', 'pipe', 'ipc'] })
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
      const timer = setTimeout(() => lost(`a hang of ${this.patience / 1000} s`), this.patience)
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
  short: 40,

  async begin(folder, { seed, asan }) {
    const environment = asan ? asanEnvironment(folder) : undefined
    return Array.from(
      { length: this.lanes },
      (_, lane) => new Patient('./damage-child.js', [join(folder, `damage ${lane}`), seed], environment),
    )
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
