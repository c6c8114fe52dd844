// The program under what a user's machine does to it. Every failure prints the line that repeats it; exits with 1 if there is any.
//   npm run torture                        all parts, about four minutes
//   npm run torture -- --minutes 60        longer
//   npm run torture -- --only damage       one part: soak, workers, signals, limits, damage, checkpoints
//   npm run torture -- --short 1           the few rounds that npm test runs; 2: twice as many, as npm run test:long
//   npm run torture -- --asan              damage and checkpoints with the core built with ASan and UBSan, and its own tests (npm run test:asan builds it)
// Rounds follow from --seed and their number alone; --case runs one. Moments in time are as random as the machine is.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { checkpoints } from './checkpoints.js'
import { damage } from './damage.js'
import { limits } from './limits.js'
import { holds, shown } from './process.js'
import { Random, Report, root } from './rig.js'
import { signals } from './signals.js'
import { soak } from './soak.js'
import { workers } from './workers.js'

const parts = [soak, workers, signals, limits, damage, checkpoints]
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '4' },
    only: { type: 'string' },
    seed: { type: 'string', default: '1' },
    case: { type: 'string' },
    device: { type: 'string', default: 'cpu' },
    short: { type: 'string' },
    asan: { type: 'boolean', default: false },
  },
})
const chosen = parts.filter(({ name }) => values.only === undefined || name === values.only)
if (chosen.length === 0) {
  console.error(`Expected one of ${parts.map(({ name }) => name).join(', ')} for --only but received ${values.only}`)
  process.exit(1)
}
if (values.short !== undefined && !(Number(values.short) >= 1)) {
  console.error(`Expected a number from 1 for --short but received ${values.short}`)
  process.exit(1)
}
const report = new Report(values.seed)
const share = (Number(values.minutes) * 60_000) / chosen.length

/** The rounds of a part: the one asked for, its few, or as many as its share of the time has room for. */
function* rounds({ short }) {
  if (values.case !== undefined) return yield Number(values.case)
  const end = performance.now() + share
  const most = values.short === undefined ? undefined : Number(values.short) * short
  for (let index = 0; most === undefined ? performance.now() < end : index < most; index++) yield index
}

async function runPart(part, folder) {
  const began = performance.now()
  const context = await part.begin(folder, values)
  const count = (what, more) => report.count(what, more)
  const waiting = rounds(part)
  let done = 0
  const runLane = async (lane) => {
    for (const index of waiting) {
      const random = new Random(values.seed, part.name, index)
      const problem = await part.round(context, index, random, count, lane).catch((error) => error.stack ?? error)
      if (problem) report.fail(part.name, index, problem)
      done += 1
    }
  }
  await Promise.all(Array.from({ length: part.lanes }, (_, lane) => runLane(lane)))
  count('rounds', done)
  for (const problem of (await part.end?.(context, done)) ?? []) report.fail(part.name, 'all', problem)
  report.close(part.name, (performance.now() - began) / 1000)
}

function runAsan() {
  const program = join(root, 'build/sanitize/native_tests')
  if (!existsSync(program)) return report.fail('asan', 'all', `Expected ${program} but found none; npm run test:asan builds it`)
  const { status, signal } = spawnSync(program, { stdio: 'inherit' })
  if (status !== 0) report.fail('asan', 'all', `the end by ${signal ?? status}`)
}

const folder = mkdtempSync(join(tmpdir(), 'lorafuse-torture-'))
try {
  console.log(`seed ${values.seed}; at the start ${shown(holds())}`)
  for (const part of chosen) await runPart(part, folder)
  if (values.asan) runAsan()
  console.log(`${report.failures} failures; at the end ${shown(holds())}`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exitCode = report.failures > 0 ? 1 : 0
