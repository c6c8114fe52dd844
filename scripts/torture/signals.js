// Processes that get a signal at a random moment, and are resumed until they finish: after each every file must be whole, a signal
// other than SIGKILL must save the last step, and the end must have the bits of an undisturbed run.
import { availableParallelism } from 'node:os'
import { differs, freshFolder, makeImages, options, readAll, temporaries, undisturbed, words } from './place.js'
import { eventsOf, judgeEnd, run } from './process.js'

const EXITS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }
const SIGNALS = ['SIGKILL', 'SIGTERM', 'SIGHUP', 'SIGINT']
/** Fewer on a GPU, which may be emulated. */
const stepsOn = (device) => (device === 'cpu' ? 12 : 4)
/** As many signals a round, at most. */
const MOST = 4

/** What is wrong with the end of a process that got a signal, or ended before it came. */
function problemOf(result, signal, twice) {
  if (result.code === 0 || signal === undefined) return judgeEnd(result)
  // Before the program's first lines ran, and with a second signal, it ends as any other.
  if (result.signal === signal && (signal === 'SIGKILL' || twice || result.stdout === '')) return undefined
  if (result.code === EXITS[signal]) return undefined
  return judgeEnd(result) ?? `the exit code ${result.code} after ${signal}`
}

/** The last step that a process says it has saved; undefined if it does not. */
function savedStep(stdout) {
  const events = eventsOf(stdout)
  const last = events.findLast(({ type }) => type === 'interrupted')
  if (last?.statePath) return { exactly: last.step }
  const saved = events.findLast(({ type }) => type === 'checkpoint')
  return saved && { least: saved.step }
}

/** What is wrong with the step that a process resumed from. */
function problemOfResuming(stdout, saved) {
  const start = eventsOf(stdout).find(({ type }) => type === 'start')
  if (!start || !saved) return undefined
  const { resumedFrom: from } = start
  if (saved.exactly !== undefined && from !== saved.exactly) return `resumed from ${from}, though step ${saved.exactly} was saved`
  return from < saved.least ? `resumed from ${from}, though step ${saved.least} was saved` : undefined
}

/** Sends a signal once a process has printed so many lines, and some milliseconds later; `twice`: and again. */
function sendAt(child, signal, { lines, after }, twice) {
  let left = lines
  const send = () => {
    left = Infinity
    for (const later of twice ? [0, 30] : [0]) setTimeout(() => child.kill(signal), after + later)
  }
  if (left === 0) send()
  child.stdout.on('data', (piece) => {
    left -= String(piece).split('\n').length - 1
    if (left <= 0) send()
  })
}

export const signals = {
  name: 'signals',
  lanes: availableParallelism(),
  short: 2,

  async begin(folder, { device }) {
    const images = await makeImages(folder)
    const steps = stepsOn(device)
    const expected = await undisturbed(folder, images, { steps, device })
    const given = options(images, freshFolder(folder, 'span'), { steps, device })
    const { milliseconds, stdout } = await run(['train', ...words(given), '--json'])
    return { folder, images, expected, device, span: milliseconds, events: eventsOf(stdout).length }
  },

  async round({ folder, images, expected, device, span, events }, index, random, count, lane) {
    const output = freshFolder(folder, `output ${lane}`)
    const given = options(images, output, { steps: stepsOn(device), device, saveEvery: index % 2, resume: true })
    let saved
    for (let sent = 0; ; sent++) {
      const signal = sent < MOST ? SIGNALS[(index + sent) % SIGNALS.length] : undefined
      // After so many lines of output, or at any time.
      const moment = random.chance(0.8)
        ? { lines: 1 + random.below(Math.ceil(events / 2)), after: random.below(20) }
        : { lines: 0, after: span * random.next() }
      const twice = random.chance(0.15)
      const onChild = (child) => signal && sendAt(child, signal, moment, twice)
      const result = await run(['train', ...words(given), '--json'], { onChild })
      const problem = problemOf(result, signal, twice) ?? problemOfResuming(result.stdout, saved)
      if (problem) return problem
      const files = await readAll(output)
      if (result.code === 0) break
      count(signal)
      count('whole files', files)
      saved = savedStep(result.stdout) ?? saved
    }
    count('resumed to the end')
    const left = temporaries(output)
    return left.length > 0 ? `temporary files are left: ${left}` : differs(output, expected.trajectory)
  },
}
